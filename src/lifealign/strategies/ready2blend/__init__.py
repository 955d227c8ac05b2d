"""Strategy ready2blend, which needs a translator, a prompt bank and sentence vectors of its own."""
