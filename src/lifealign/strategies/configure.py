"""Read a run's configuration with the chosen strategy's own options, and check that they fit together.

Separate from `config`, which knows no strategies and needs no torch. Neither does `check_early`, which finds nearly all
mistakes; a strategy is imported, and torch with it, when its options are read for good.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lifealign.core.config import RunConfig, check_config, load_config
from lifealign.core.errors import ConfigError
from lifealign.core.files import read_text
from lifealign.core.presets import PRESETS
from lifealign.strategies import STRATEGIES, make_strategy
from lifealign.strategies._declared import AnyOptions, declared


def read_config(
    path: str | Path | None,
    settings: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    *,
    whole: bool = False,
) -> RunConfig:
    """Read a run configuration and check the strategy's own options too; see `core.config.load_config`."""
    if "torch" not in sys.modules:
        check_early(path, settings, base, whole=whole)
    return _check_together(load_config(None if path is None else Path(path), settings, _Options(), base, whole=whole))


def check_tree(tree: Mapping[str, Any], where: str, early: bool = False) -> RunConfig:
    """Check a tree of plain values like a configuration file; messages begin with `where`.

    `early`: as `check_early` does, without loading the strategy.
    """
    if early:
        return check_config(tree, where, _Declared())
    return _check_together(check_config(tree, where, _Options()))


def check_early(
    path: str | Path | None,
    settings: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    *,
    whole: bool = False,
) -> RunConfig:
    """What `read_config` finds by the declarations of options alone, without importing the strategy and torch.

    Returns:
        The configuration; options of the strategy that are not given may lack their defaults.

    Raises:
        ConfigError: lists every mistake that was found.
    """
    return load_config(None if path is None else Path(path), settings, _Declared(), base, whole=whole)


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


class _Declared(_Options):
    """The same, as the source declares the options; those of a strategy from outside are not looked at."""

    def __getitem__(self, name: str) -> type[BaseModel]:
        reference = None if STRATEGIES.is_outside(name) else STRATEGIES.origin(name).reference
        return AnyOptions if reference is None else declared(reference)


def _with_context(config: RunConfig) -> RunConfig:
    """The configuration with the text of the file that `strategy.reference_context=@FILE` names, so that a memory keeps it.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    given = getattr(config.strategy, "reference_context", None)
    if not isinstance(given, str) or not given.startswith("@"):
        return config
    text = read_text(Path(given[1:]).expanduser(), ConfigError).strip()
    if not text or text.startswith("@"):
        raise ConfigError(
            f"strategy.reference_context: {given[1:]} holds no text to show the reference; write the context there"
        )
    strategy = config.strategy.model_copy(update={"reference_context": text})
    return config.model_copy(update={"strategy": strategy})


def _check_together(config: RunConfig) -> RunConfig:
    """Return the configuration after the strategy has checked that its options fit the rest."""
    from lifealign.training.selectors import SELECTORS
    from lifealign.training.sft_losses import check_sft

    SELECTORS.find(config.data.select)
    check_sft(config.sft)
    config = _with_context(config)
    try:
        make_strategy(config.strategy, config.lora, config.seed).check(config)
    except ConfigError as error:
        filled = PRESETS[config.preset].options.get(config.strategy.name, {})
        named = [key for key in filled if f"strategy.{key}" in str(error)]
        if not named:
            raise
        raise ConfigError(f"{error} (preset {config.preset} sets strategy.{named[0]}; preset=paper does not)") from None
    return config
