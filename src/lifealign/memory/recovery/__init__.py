"""Recovery of a task that was lost, from its prompts alone: points, spaces of weights, the loop, and what is kept."""
