"""What tests of several strategies share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from support.rows import make_task

TASKS = [make_task(name, train=6, test=2) for name in ("bread", "stars", "music")]


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert set(a) == set(b)
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
