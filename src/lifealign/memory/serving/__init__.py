"""An OpenAI-compatible server for a memory: points of its life as models, batches of waiting requests, thumbs."""
