"""The numbers in `tests/golden`; its README says where each comes from."""

from __future__ import annotations

import json
from typing import Any

from support.paths import ROOT


def golden_numbers(name: str) -> Any:
    """The content of `tests/golden/<name>.json`."""
    return json.loads((ROOT / "tests" / "golden" / f"{name}.json").read_text(encoding="utf-8"))
