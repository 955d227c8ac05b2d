"""A memory on disk: layout, records, reading, writing, verifying."""
