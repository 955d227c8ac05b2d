"""What the time of a training step goes into, by kind of kernel."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

KINDS = (
    # First match. Names of cuBLAS, CUTLASS, Triton, torch's own kernels, and of its operators on a CPU.
    ("attention", r"flash|fmha|flex_attention|tem_fused.*attention|scaled_dot_product|ProductAttention"),
    ("matrix products", r"gemm|nvjet|cutlass|xmma|cublas|splitk|aten::(mm|addmm|bmm|baddbmm|linear|matmul)|mkldnn"),
    (
        "copies",
        r"memcpy|memset|copy_|_cat|CatArray|aten::(copy|cat|to|clone|contiguous|fill|zero)|direct_copy|index_put",
    ),
    ("reductions", r"reduce|softmax|norm|triton_(red|per)_|aten::(sum|mean|amax|logsumexp)|cunn"),
    ("elementwise", r"elementwise|triton_poi|aten::\w+|vectorized|gather|index|multi_tensor|adam|scatter"),
)
VOCABULARY = "lifealign: vocabulary"
MARKS = (VOCABULARY, "ProfilerStep", "Optimizer.", "## ", "Torch-Compiled Region", "CompiledFunction")
"""Names that the profiler repeats on the device's line, and that are no kernels."""


def kind_of(name: str) -> str:
    """The kind of a kernel by its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "other")


@contextmanager
def vocabulary_marked() -> Iterator[None]:
    """Mark the part of a step that multiplies by the vocabulary matrix, for the profiler."""
    from lifealign.model import logps

    function: Any = getattr(logps, "_TokenLogps", None)
    if function is None:
        yield
        return
    own = function.__dict__["forward"]

    def marked(*args: Any) -> Any:
        with torch.profiler.record_function(VOCABULARY):
            return own.__func__(*args)

    function.forward = staticmethod(marked)
    try:
        yield
    finally:
        function.forward = own


def union(spans: Sequence[tuple[float, float]]) -> float:
    """Length that intervals cover together."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def in_vocabulary(event: Any) -> bool:
    """Whether an operator was called within the marked part."""
    while event is not None:
        if event.name == VOCABULARY:
            return True
        event = event.cpu_parent
    return False


def step_kinds(step: Callable[[], object], device: str) -> dict[str, Any]:
    """Profile one call of `step`: seconds by kind, those of the vocabulary part apart, and those without any kernel.

    On a CPU operators take the place of kernels.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with vocabulary_marked(), torch.profiler.profile(activities=activities) as profile:
        started = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        wall = time.perf_counter() - started
    events = list(profile.events() or [])
    seconds: dict[str, float] = {}
    names: dict[str, float] = {}
    spans = []

    def add(kind: str, name: str, micro: float) -> None:
        seconds[kind] = seconds.get(kind, 0.0) + micro / 1e6
        names[name[:120]] = names.get(name[:120], 0.0) + micro / 1e6

    for event in events:
        on_device = "CUDA" in str(event.device_type)
        if device == "cuda" and on_device:
            if getattr(event, "is_user_annotation", False) or event.name.startswith(MARKS):
                continue
            add(kind_of(event.name), event.name, event.time_range.elapsed_us())
            spans.append((event.time_range.start, event.time_range.end))
        elif device != "cuda":
            name = "vocabulary" if in_vocabulary(event) else kind_of(event.name)
            add(name, event.name, event.self_cpu_time_total)
        elif in_vocabulary(event):
            for kernel in event.kernels:
                seconds["vocabulary"] = seconds.get("vocabulary", 0.0) + kernel.duration / 1e6
                seconds[kind_of(kernel.name)] = seconds.get(kind_of(kernel.name), 0.0) - kernel.duration / 1e6
    busy = union(spans) / 1e6 if spans else sum(seconds.values())
    if device == "cuda":
        seconds["idle"] = max(0.0, wall - busy)
    largest = sorted(names.items(), key=lambda item: -item[1])[:25]
    return {"wall": wall, "busy": busy, "seconds": seconds, "largest": dict(largest)}
