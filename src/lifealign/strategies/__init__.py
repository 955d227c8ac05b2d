"""Strategies by name: an explicit table, one method per file."""

from __future__ import annotations

from collections.abc import Mapping

from lifealign.config import LoraConfig, StrategyChoice
from lifealign.strategies.base import History, PreferenceDataset, Step, Strategy
from lifealign.strategies.joint import Joint
from lifealign.strategies.l2p import L2P
from lifealign.strategies.lifealign import LifeAlign
from lifealign.strategies.ready2blend import Ready2Blend
from lifealign.strategies.replay import Replay
from lifealign.strategies.sequential import Sequential

__all__ = ["STRATEGIES", "History", "PreferenceDataset", "Step", "Strategy", "make_strategy"]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "joint": Joint,
    "l2p": L2P,
    "lifealign": LifeAlign,
    "ready2blend": Ready2Blend,
    "replay": Replay,
    "sequential": Sequential,
}


def make_strategy(choice: StrategyChoice, lora: LoraConfig, seed: int) -> Strategy:
    """The strategy that a (checked) configuration names."""
    cls = STRATEGIES[choice.name]
    return cls(cls.Config.model_validate(choice.model_extra or {}), lora, seed)
