"""Read a run's configuration with the chosen strategy's own options, and check that they fit together.

Separate from `config`, which knows no strategies and needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lifealign.core.config import RunConfig, check_config, load_config
from lifealign.core.errors import ConfigError
from lifealign.core.presets import PRESETS
from lifealign.strategies import STRATEGIES, make_strategy


def read_config(
    path: str | Path | None,
    settings: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    *,
    whole: bool = False,
) -> RunConfig:
    """Read a run configuration and check the strategy's own options too; see `core.config.load_config`."""
    return _check_together(load_config(None if path is None else Path(path), settings, _Options(), base, whole=whole))


def check_tree(tree: Mapping[str, Any], where: str) -> RunConfig:
    """Check a tree of plain values like a configuration file; messages begin with `where`."""
    return _check_together(check_config(tree, where, _Options()))


class _Options(Mapping[str, type[BaseModel]]):
    """Name of a strategy -> the model of its options; a strategy is loaded when its options are read."""

    def __getitem__(self, name: str) -> type[BaseModel]:
        return STRATEGIES[name].Config

    def __contains__(self, name: object) -> bool:
        return name in STRATEGIES

    def __iter__(self) -> Iterator[str]:
        return iter(STRATEGIES)

    def __len__(self) -> int:
        return len(STRATEGIES)


def _check_together(config: RunConfig) -> RunConfig:
    """Return the configuration after the strategy has checked that its options fit the rest."""
    try:
        make_strategy(config.strategy, config.lora, config.seed).check(config)
    except ConfigError as error:
        filled = PRESETS[config.preset].options.get(config.strategy.name, {})
        named = [key for key in filled if f"strategy.{key}" in str(error)]
        if not named:
            raise
        raise ConfigError(f"{error} (preset {config.preset} sets strategy.{named[0]}; preset=paper does not)") from None
    return config
