"""Short-to-long memory consolidation, merging and composing: pure functions of updates."""
