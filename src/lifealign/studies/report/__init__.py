"""The report of a study: tables, figures, LaTeX, Markdown and the page."""
