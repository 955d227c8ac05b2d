"""Read a run's configuration with the chosen strategy's own options, and check that the two fit each other.

Apart from `config`, which knows no strategy and needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lifealign.core.config import RunConfig, check_config, load_config
from lifealign.strategies import STRATEGIES, make_strategy


def read_config(path: Path | None, settings: Sequence[str] = (), base: Mapping[str, Any] | None = None) -> RunConfig:
    """A run configuration, the strategy's own options checked as well; see `config.load_config`."""
    return _check_together(load_config(path, settings, _strategy_configs(), base))


def check_tree(tree: Mapping[str, Any], where: str) -> RunConfig:
    """A tree of plain values as a run configuration, checked like a file; mistakes begin with `where`."""
    return _check_together(check_config(tree, where, _strategy_configs()))


def _strategy_configs() -> dict[str, type[BaseModel]]:
    return {name: cls.Config for name, cls in STRATEGIES.items()}


def _check_together(config: RunConfig) -> RunConfig:
    """The configuration, if the strategy finds its options to fit the rest of it."""
    make_strategy(config.strategy, config.lora, config.seed).check(config)
    return config
