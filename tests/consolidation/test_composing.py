"""Sums of tasks' updates in both spaces, and the overlap of two updates, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lifealign.consolidation import composing as compose

pytestmark = pytest.mark.usefixtures("one_thread")


def random_points(count: int, rank: int = 2) -> list[dict[str, Tensor]]:
    g = torch.Generator().manual_seed(3)
    return [
        {
            f"m.{i}.lora_{x}": torch.randn(*((rank, 6) if x == "A" else (5, rank)), generator=g)
            for i in "12"
            for x in "AB"
        }
        for _ in range(count)
    ]


def dense(adapter: Any, module: str) -> Tensor:
    return adapter[f"{module}.lora_B"].double() @ adapter[f"{module}.lora_A"].double()  # type: ignore[no-any-return]


def test_factors_are_summed_exactly() -> None:
    """Initial 1, then 3, then 7 (updates 2 and 4): weights 0.5 and 2 give 1 + 1 + 8 in either factor."""
    points = [{"m.lora_A": torch.full((1, 2), v), "m.lora_B": torch.full((3, 1), -v)} for v in (1.0, 3.0, 7.0)]
    made = compose.compose(points, [0.5, 2.0], "factors")
    assert made.adapter["m.lora_A"].tolist() == [[10, 10]] and made.adapter["m.lora_B"].tolist() == [[-10]] * 3
    assert made.truncation_error is None and made.change == pytest.approx((100 - 49) / 49)
    withdrawn = compose.compose(points, [0.0, 0.0], "factors").adapter
    assert all(torch.equal(withdrawn[k], points[0][k]) for k in withdrawn)


@pytest.mark.parametrize("space", ["factors", "delta_w"])
def test_weights_of_one_give_the_stored_weights_bit_for_bit(space: compose.Space) -> None:
    points = random_points(4)
    made = compose.compose(points, [1.0, 1.0, 1.0], space)
    assert all(torch.equal(made.adapter[k], points[3][k]) for k in points[3]) and made.change == 0


def test_delta_w_is_the_sum_of_products_cut_to_the_rank() -> None:
    points, weights = random_points(4), [1.5, 1.0, -0.25]
    made = compose.compose(points, weights, "delta_w")
    lost = total = changed = before = 0.0
    for module in ("m.1", "m.2"):
        wanted = dense(points[0], module)
        for t, w in enumerate(weights):
            wanted = wanted + w * (dense(points[t + 1], module) - dense(points[t], module))
        u, s, v = torch.linalg.svd(wanted)
        cut = (u[:, :2] * s[:2]) @ v[:2]
        torch.testing.assert_close(dense(made.adapter, module), cut, atol=1e-5, rtol=0)
        lost += float(((wanted - cut) ** 2).sum())
        total += float((wanted**2).sum())
        changed += float(((cut - dense(points[3], module)) ** 2).sum())
        before += float((dense(points[3], module) ** 2).sum())
    assert made.truncation_error == pytest.approx(math.sqrt(lost / total), rel=1e-6)
    assert made.change == pytest.approx(math.sqrt(changed / before), rel=1e-5)
    assert {k: (v.dtype, v.shape) for k, v in made.adapter.items()} == {
        k: (torch.float32, v.shape) for k, v in points[3].items()
    }


def test_delta_w_without_any_task_is_the_initial_product() -> None:
    """dW_0 = 0, as in a fresh adapter: nothing is left but spare directions with B = 0."""
    points = random_points(3)
    for name in points[0]:
        if name.endswith("lora_B"):
            points[0][name].zero_()
    made = compose.compose(points, [0, 0], "delta_w")
    assert float(dense(made.adapter, "m.1").abs().max()) < 1e-5


def test_overlap_is_the_cosine_of_the_products_updates() -> None:
    a, b, c = random_points(3)
    x = torch.cat([(dense(b, m) - dense(a, m)).flatten() for m in ("m.1", "m.2")])
    y = torch.cat([(dense(c, m) - dense(b, m)).flatten() for m in ("m.1", "m.2")])
    cosine = float(x @ y / (x.norm() * y.norm()))
    assert compose.overlap((a, b), (b, c)) == pytest.approx(cosine, abs=1e-9) and abs(cosine) > 0.1
    assert compose.overlap((a, b), (b, a)) == pytest.approx(-1, abs=1e-9)
    assert compose.overlap((a, a), (b, c)) is None
