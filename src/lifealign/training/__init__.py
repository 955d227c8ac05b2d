"""Losses, replay, the interface of a strategy, and the training loop."""
