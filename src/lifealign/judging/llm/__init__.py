"""Models as judges: prompts, calls, costs, judgements, summaries."""
