"""Limits on what is read from outside, each with the environment variable that sets it. Imports no torch.

A file comes from whoever wrote it: it may be small and unpack to more than the memory holds, or never end. So each
reader compares with a limit before it allocates, and its message names the variable that raises the limit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lifealign.core.errors import ConfigError, UserError

MIB = 1 << 20
SHOWN = 120
"""Longest value in a message, in characters."""


@dataclass(frozen=True)
class Limit:
    """A limit that the environment can change.

    Attributes:
        variable: the environment variable.
        default: used where the variable is not set.
        unit: one of what is counted, in units that the variable counts.
    """

    variable: str
    default: int
    unit: int = 1

    def value(self) -> int:
        """The limit.

        Raises:
            ConfigError: the variable is not a whole number of 1 or more.
        """
        text = os.environ.get(self.variable)
        if text is None:
            return self.default * self.unit
        if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) == 0:
            raise ConfigError(
                f"{self.variable}={shown(text)}: not a whole number of 1 or more; default: {self.default}"
            )
        return int(text) * self.unit

    def refuse(self, found: int, what: Callable[[int], str], error: type[UserError]) -> None:
        """Raise `error` if `found` is above the limit.

        Args:
            found: what was counted.
            what: from the limit, in the variable's units, to what is wrong, e.g. "rows.csv: more than 10 rows".
            error: class of the message.
        """
        if found > (limit := self.value()):
            raise error(f"{what(limit // self.unit)}; set {self.variable} to raise this limit")


READ = Limit("LIFEALIGN_MAX_READ_MB", 512, MIB)
"""Bytes of a file that is read whole, and of the values that it unpacks to, in MiB."""
ROWS = Limit("LIFEALIGN_MAX_ROWS", 500_000)
"""Rows of one file."""
YAML = Limit("LIFEALIGN_MAX_YAML_VALUES", 20_000)
"""Keys and values of one YAML file, with every alias counted as what it stands for."""


def shown(value: Any, limit: int = SHOWN) -> str:
    """A value for a message, as `repr` writes it, on one line and cut to `limit` characters."""
    try:
        text = repr(value[:limit] if isinstance(value, str | bytes) else value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or nesting too deep
        return f"a value of type {type(value).__name__} that is too long to show"
    cut = len(text) > limit + 2 or (isinstance(value, str | bytes) and len(value) > limit)
    text = text[:limit] + "..." if cut else text
    return text.encode("utf-8", "backslashreplace").decode()
