"""A run's configuration with the chosen strategy's own options, and what the parts say to each other.

Apart from `config`, which knows no strategy and needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lifealign.core.config import RunConfig, check_config, load_config
from lifealign.core.errors import ConfigError
from lifealign.strategies import STRATEGIES
from lifealign.training.losses import ObjectiveConfig


def read_config(
    path: str | Path | None, settings: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> RunConfig:
    """A run configuration, the strategy's own options checked as well; see `config.load_config`."""
    return _check_together(load_config(None if path is None else Path(path), settings, _Options(), base))


def check_tree(tree: Mapping[str, Any], where: str) -> RunConfig:
    """A tree of plain values as a run configuration, checked like a file; mistakes begin with `where`."""
    return _check_together(check_config(tree, where, _Options()))


class _Options(Mapping[str, type[BaseModel]]):
    """Name of a strategy -> the model of its options; a strategy is loaded when its options are asked for."""

    def __getitem__(self, name: str) -> type[BaseModel]:
        return STRATEGIES[name].Config

    def __contains__(self, name: object) -> bool:
        return name in STRATEGIES

    def __iter__(self) -> Iterator[str]:
        return iter(STRATEGIES)

    def __len__(self) -> int:
        return len(STRATEGIES)


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
