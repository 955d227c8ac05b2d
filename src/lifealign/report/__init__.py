"""Pages, tables, charts and terminal text."""
