"""The local server of `lifealign view`: every memory, study and file of answers below a folder, read only."""
