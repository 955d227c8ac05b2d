"""From scores of rows to summaries of a memory: catalog, matrices, gates."""
