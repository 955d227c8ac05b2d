"""Sequential preference tuning (SeqFT), with nothing done against forgetting: the lower bound."""

from __future__ import annotations

from lifealign.training.strategy import Strategy


class Sequential(Strategy):
    """Train on each task's rows alone and do nothing against forgetting: the lower bound.

    No paper: this is plain fine-tuning in sequence (SeqFT), one adapter with a fresh optimizer for each task.

    Kept: nothing.

    Cost: 1.
    """
