"""What decides how a run rounds, beside its configuration: kept with each task, and kept the same over a memory's life."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from lifealign.model.compiling import is_compiled
from lifealign.model.frozen_linear import onednn_leads, use_onednn
from lifealign.store.reader import MemoryReader

NUMERICS = "numerics"
"""Key of a task's `meta`."""
SAID = {"device": "device", "products": "matrix products", "threads": "threads", "torch": "torch"}
"""Parts whose change is said, with their names for people."""


def numerics_of(model: nn.Module, accelerator: Accelerator, tokens_per_pack: int | None) -> dict[str, Any]:
    """Device, type, library of the products, columns of a row, compiled layers or not, threads and torch.

    Args:
        model: the base model.
        accelerator: for the device.
        tokens_per_pack: columns of a packed row in training; None: not known yet.
    """
    device = accelerator.device
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.backends.cpu.get_cpu_capability()}",
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "products": "cuBLAS" if cuda else "oneDNN" if onednn_leads() else "torch",
        "tokens_per_pack": tokens_per_pack,
        "compiled": is_compiled(model),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def stored_numerics(store: MemoryReader) -> Mapping[str, Any] | None:
    """Those of the newest task that keeps them; None: no task does."""
    found = (manifest.meta.get(NUMERICS) for manifest in reversed(store.lineage()))
    return next((numerics for numerics in found if numerics), None)


def follow(store: MemoryReader, model: nn.Module, accelerator: Accelerator) -> str | None:
    """Multiply on as the memory's newest task did, on the same kind of processor, instead of by another stopwatch.

    Returns:
        One sentence on what differs from that task all the same; None: nothing does, or no task keeps it.
    """
    before = stored_numerics(store)
    if before is None:
        return None
    now = numerics_of(model, accelerator, None)
    if accelerator.device.type == "cpu" and before["device"] == now["device"] and before["products"] != now["products"]:
        use_onednn(before["products"] == "oneDNN")
        now = numerics_of(model, accelerator, None)
    changed = [f"{name} {before[key]} then, {now[key]} now" for key, name in SAID.items() if before[key] != now[key]]
    if not changed:
        return None
    return f"the newest task was learnt otherwise ({'; '.join(changed)}): results agree up to rounding, not bit for bit"
