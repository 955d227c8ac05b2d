"""The run configuration that a memory keeps, checked as a whole."""

from __future__ import annotations

from lifealign.core.config import RunConfig
from lifealign.core.documents import check
from lifealign.store.layout import STORE
from lifealign.store.reader import MemoryReader


def run_config(store: MemoryReader) -> RunConfig:
    """The configuration that a memory was made with; its `memory` is where it is now.

    Raises:
        StoreError: the memory keeps none, or one of another shape; names the field.
    """
    where = f"{store.path / STORE}: damaged: identity.config"
    return check(RunConfig, {**store.config, "memory": str(store.path)}, where)
