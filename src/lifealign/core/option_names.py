"""Renamed options of strategies: one table from old names to new ones. Imports no torch.

Old names come from configuration files, `--set`, studies and stored memories. Each of these entry points maps them with
`current_names`, so that the rest of the package knows only the new names. The ids of study runs are hashes of a
configuration; `former_names` restores the names that were hashed originally, so that finished runs are found again.

An old name is never reused for another option of the same strategy.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any

RENAMED: Mapping[str, Mapping[str, str]] = {
    "cppo": {"k": "threshold_std"},
    "derpp": {"a": "logps_weight", "b": "buffer_weight"},
    "ewc": {"lam": "penalty_weight"},
    "inflora": {"lamb": "protected_first", "lame": "protected_last"},
    "lifealign": {"lam": "overlap_scale"},
    "merge": {"t": "interpolation"},
    "nlora": {"lam": "penalty_weight"},
    "olora": {"lambda_orth": "orthogonality_weight", "lambda_l2": "l2_weight"},
    "si": {"c": "penalty_weight"},
}
"""Strategy -> old name -> new name."""

ADDED: Mapping[str, Mapping[str, Any]] = {"inflora": {"energy": "plain"}}
"""Strategy -> option that was added later -> the value that does what the method did before there was a choice."""

SECTION = "strategy."
"""Prefix of a strategy's options among dotted keys."""


def current_names(strategy: Any, options: Mapping[str, Any], where: str | None = None) -> dict[str, Any]:
    """A strategy's options under their current names, in the order given.

    Args:
        strategy: its name; options of an unknown one stay as they are.
        options: by name, old or new.
        where: the place to name when an old name is reported, once; None: do not report.

    Raises:
        ValueError: an option is given under both names.
    """
    table = RENAMED.get(strategy, {}) if isinstance(strategy, str) else {}
    for old, new in table.items():
        if old in options and new in options:
            raise ValueError(f"{old} is the old name of {new} (strategy {strategy}); give only {new}")
        if old in options and where is not None:
            _report(
                f"{where}: {SECTION}{old} is now called {SECTION}{new} (strategy {strategy}); the old name still works"
            )
    return {table.get(key, key): value for key, value in options.items()}


def current_keys(strategy: Any, settings: Mapping[str, Any], where: str | None = None) -> dict[str, Any]:
    """Like `current_names`, for dotted keys: ewc's ``lam`` under `strategy` becomes ``strategy.penalty_weight``."""
    keys = [key for key in settings if isinstance(key, str) and key.startswith(SECTION)]
    names = current_names(strategy, {key.removeprefix(SECTION): None for key in keys}, where)
    found = dict(zip(keys, names, strict=True))
    return {SECTION + found[key] if key in found else key: value for key, value in settings.items()}


def as_stored(strategy: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """A stored strategy's options with those that it is too old to have, at what the method did then.

    A configuration is stored with all options of its strategy, so one that lacks an option is older than the option.
    """
    added = ADDED.get(strategy, {}) if isinstance(strategy, str) and "beta" in options else {}
    return {**options, **{key: value for key, value in added.items() if key not in options}}


def former_names(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A strategy's name and options, with every renamed option under its original name, in the order given."""
    table = {new: old for old, new in RENAMED.get(choice["name"], {}).items()}
    return {table.get(key, key): value for key, value in choice.items()}


@functools.cache
def _report(message: str) -> None:
    """Warn once per message and process."""
    warnings.warn(message, FutureWarning, stacklevel=4)
