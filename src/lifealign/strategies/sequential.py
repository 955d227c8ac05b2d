"""Sequential preference tuning (SeqFT): nothing is done against forgetting. The lower bound."""

from __future__ import annotations

from lifealign.training.strategy import Strategy


class Sequential(Strategy):
    """Each task's rows alone, one adapter, fresh optimizer. Keeps no state; cost 1."""
