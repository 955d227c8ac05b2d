"""From the logs of an application, with thumbs and edits, to rows: `lifealign collect`. Imports no torch."""
