"""A memory with its model: learn, score, answer, recompose."""
