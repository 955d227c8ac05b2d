"""Strategy ready2blend, with its own translator, prompt bank and sentence vectors."""
