"""Losses, replay, the interface of a strategy, and the only training loop."""
