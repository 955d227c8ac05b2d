"""Token ids, packed rows, the base model with its adapter, log-probs, generation."""
