"""Strategies by name: an explicit table, one method per file."""

from __future__ import annotations

from collections.abc import Mapping

from lifealign.core.config import LoraConfig, StrategyChoice
from lifealign.strategies.agem import AGem
from lifealign.strategies.copr import Copr
from lifealign.strategies.cppo import Cppo
from lifealign.strategies.derpp import DERpp
from lifealign.strategies.ewc import EWC
from lifealign.strategies.gem import Gem
from lifealign.strategies.inflora import InfLora
from lifealign.strategies.joint import Joint
from lifealign.strategies.l2p import L2P
from lifealign.strategies.lifealign import LifeAlign
from lifealign.strategies.lwf import LwF
from lifealign.strategies.merge import Merge
from lifealign.strategies.nlora import NLora
from lifealign.strategies.ogpsa import Ogpsa
from lifealign.strategies.olora import OLora
from lifealign.strategies.ready2blend.strategy import Ready2Blend
from lifealign.strategies.replay import Replay
from lifealign.strategies.sdlora import SDLora
from lifealign.strategies.sequential import Sequential
from lifealign.strategies.si import SI
from lifealign.strategies.single import Single
from lifealign.training.strategy import History, PreferenceDataset, Step, Strategy

__all__ = ["STRATEGIES", "History", "PreferenceDataset", "Step", "Strategy", "make_strategy"]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "agem": AGem,
    "copr": Copr,
    "cppo": Cppo,
    "derpp": DERpp,
    "ewc": EWC,
    "gem": Gem,
    "inflora": InfLora,
    "joint": Joint,
    "l2p": L2P,
    "lifealign": LifeAlign,
    "lwf": LwF,
    "merge": Merge,
    "nlora": NLora,
    "ogpsa": Ogpsa,
    "olora": OLora,
    "ready2blend": Ready2Blend,
    "replay": Replay,
    "sdlora": SDLora,
    "sequential": Sequential,
    "si": SI,
    "single": Single,
}


def make_strategy(choice: StrategyChoice, lora: LoraConfig, seed: int) -> Strategy:
    """The strategy that a (checked) configuration names."""
    cls = STRATEGIES[choice.name]
    return cls(cls.Config.model_validate(choice.model_extra or {}), lora, seed)
