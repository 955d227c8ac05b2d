"""Strategies by name; the built-in ones are one method per file. Imports no torch until one is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from lifealign.core.config import LoraConfig, StrategyChoice
from lifealign.core.documents import check
from lifealign.core.errors import ConfigError
from lifealign.core.registry import Registry

if TYPE_CHECKING:
    from lifealign.training.strategy import History, PreferenceDataset, Step, Strategy

__all__ = ["STRATEGIES", "History", "PreferenceDataset", "Step", "Strategy", "make_strategy", "register_strategy"]


def _check(value: Any) -> str | None:
    from lifealign.training.strategy import Strategy

    if isinstance(value, type) and issubclass(value, Strategy):
        return None
    return f"expected a subclass of lifealign.Strategy, got {value!r}"


STRATEGIES: Registry[type[Strategy]] = Registry("strategy", "lifealign.strategies", check=_check)
STRATEGIES.built_in(
    {
        "agem": "lifealign.strategies.agem:AGem",
        "copr": "lifealign.strategies.copr:Copr",
        "cppo": "lifealign.strategies.cppo:Cppo",
        "derpp": "lifealign.strategies.derpp:DERpp",
        "ewc": "lifealign.strategies.ewc:EWC",
        "gem": "lifealign.strategies.gem:Gem",
        "inflora": "lifealign.strategies.inflora:InfLora",
        "joint": "lifealign.strategies.joint:Joint",
        "l2p": "lifealign.strategies.l2p:L2P",
        "lifealign": "lifealign.strategies.lifealign:LifeAlign",
        "lwf": "lifealign.strategies.lwf:LwF",
        "merge": "lifealign.strategies.merge:Merge",
        "nlora": "lifealign.strategies.nlora:NLora",
        "ogpsa": "lifealign.strategies.ogpsa:Ogpsa",
        "olora": "lifealign.strategies.olora:OLora",
        "ready2blend": "lifealign.strategies.ready2blend.strategy:Ready2Blend",
        "replay": "lifealign.strategies.replay:Replay",
        "sdlora": "lifealign.strategies.sdlora:SDLora",
        "sequential": "lifealign.strategies.sequential:Sequential",
        "si": "lifealign.strategies.si:SI",
        "single": "lifealign.strategies.single:Single",
    }
)

S = TypeVar("S", bound="type[Strategy]")


@overload
def register_strategy(name: str) -> Callable[[S], S]: ...


@overload
def register_strategy(name: str, cls: S) -> S: ...


def register_strategy(name: str, cls: S | None = None) -> S | Callable[[S], S]:
    """Register your own strategy under a name; without `cls`, a decorator.

    Raises:
        ConfigError: the name is taken or badly written, or `cls` is not a strategy.
    """
    if cls is None:
        return lambda cls: register_strategy(name, cls)
    STRATEGIES.register(name, cls)
    return cls


def make_strategy(choice: StrategyChoice, lora: LoraConfig, seed: int) -> Strategy:
    """The strategy that a (checked) configuration names.

    Raises:
        ConfigError: no strategy has this name, or it cannot be loaded.
    """
    cls = STRATEGIES.find(choice.name)
    options = check(cls.Config, choice.model_extra or {}, f"strategy {choice.name}", ConfigError)
    return cls(options, lora, seed)


def __getattr__(name: str) -> Any:
    if name in ("History", "PreferenceDataset", "Step", "Strategy"):
        return getattr(importlib.import_module("lifealign.training.strategy"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
