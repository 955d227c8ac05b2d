"""A run's configuration with the chosen strategy's own options, and what the parts say to each other.

Apart from `config`, which knows no strategy and needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lifealign.core.config import RunConfig, check_config, load_config
from lifealign.core.errors import ConfigError
from lifealign.strategies import STRATEGIES
from lifealign.training.losses import ObjectiveConfig


def read_config(path: Path | None, settings: Sequence[str] = (), base: Mapping[str, Any] | None = None) -> RunConfig:
    """A run configuration, the strategy's own options checked as well; see `config.load_config`."""
    return _check_together(load_config(path, settings, _strategy_configs(), base))


def check_tree(tree: Mapping[str, Any], where: str) -> RunConfig:
    """A tree of plain values as a run configuration, checked like a file; mistakes begin with `where`."""
    return _check_together(check_config(tree, where, _strategy_configs()))


def _strategy_configs() -> dict[str, type[BaseModel]]:
    return {name: cls.Config for name, cls in STRATEGIES.items()}


def _check_together(config: RunConfig) -> RunConfig:
    """What a strategy's options and the stages say to each other."""
    chosen = config.strategy.model_extra or {}
    if chosen.get("consolidate") == "stage" and not config.sft.epochs:
        raise ConfigError(
            "strategy.consolidate=stage is one consolidation after each stage, but sft.epochs=0, so there is one stage; use task"
        )
    if chosen.get("reference") == "task_start" and not config.sft.epochs:
        raise ConfigError(
            "strategy.reference=task_start is the policy after the SFT stage, but sft.epochs=0, so there is none; use previous_task"
        )
    loss = chosen.get("loss")
    if config.train.skip_weight_below > 0 and loss != "fpo":
        raise ConfigError(
            f"train.skip_weight_below={config.train.skip_weight_below} is about focal weights, which loss {loss!r} has none of; "
            "set it to 0, or strategy.loss=fpo"
        )
    options = STRATEGIES[config.strategy.name].Config
    if config.train.skip_weight_below > 0 and issubclass(options, ObjectiveConfig) and options.own_terms:
        raise ConfigError(
            f"train.skip_weight_below={config.train.skip_weight_below} leaves pairs out by their focal weight, and with them what "
            f"strategy {config.strategy.name} adds to their loss; set it to 0"
        )
    return config
