"""Strategies by name: an explicit table, one method per file."""

from __future__ import annotations

from collections.abc import Mapping

from lifealign.config import LoraConfig, StrategyChoice
from lifealign.strategies.base import History, PreferenceDataset, Step, Strategy
from lifealign.strategies.inflora import InfLora
from lifealign.strategies.joint import Joint
from lifealign.strategies.lifealign import LifeAlign
from lifealign.strategies.nlora import NLora
from lifealign.strategies.olora import OLora
from lifealign.strategies.replay import Replay
from lifealign.strategies.sdlora import SDLora
from lifealign.strategies.sequential import Sequential
from lifealign.strategies.single import Single

__all__ = ["STRATEGIES", "History", "PreferenceDataset", "Step", "Strategy", "make_strategy"]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "inflora": InfLora,
    "joint": Joint,
    "lifealign": LifeAlign,
    "nlora": NLora,
    "olora": OLora,
    "replay": Replay,
    "sdlora": SDLora,
    "sequential": Sequential,
    "single": Single,
}


def make_strategy(choice: StrategyChoice, lora: LoraConfig, seed: int) -> Strategy:
    """The strategy that a (checked) configuration names."""
    cls = STRATEGIES[choice.name]
    return cls(cls.Config.model_validate(choice.model_extra or {}), lora, seed)
