"""GEM, A-GEM, OGPSA: the projections by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lifealign.strategies.agem import agem_project
from lifealign.strategies.gem import gem_project
from lifealign.strategies.ogpsa import project_out
from support.golden import golden_numbers
from support.projection import brute_force

pytestmark = pytest.mark.usefixtures("one_thread")


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def golden(name: str) -> dict[str, list[float]]:
    return golden_numbers("strategies")[name]  # type: ignore[no-any-return]


def test_golden_numbers() -> None:
    gem, agem = golden("gem"), golden("agem")
    found = gem_project(t(*gem["gradient"]), torch.tensor(gem["memory_gradients"]), float(gem["margin"]), eps=1e-12)  # type: ignore[arg-type]
    torch.testing.assert_close(found, t(*gem["result"]), atol=1e-9, rtol=0)
    found = agem_project(t(*agem["gradient"]), t(*agem["memory_gradient"]))
    torch.testing.assert_close(found, t(*agem["result"]), atol=1e-12, rtol=0)


def test_gem_by_hand() -> None:
    """One memory gradient (1, 0): v = max(margin, -q / (1 + eps)) with q = <g, g_1>, added to the first entry."""
    one = torch.tensor([[1.0, 0.0]])
    found = gem_project(t(-1, 1), one, margin=0.5, eps=1e-3)
    torch.testing.assert_close(found, t(-1 + 1 / 1.001, 1), atol=1e-12, rtol=0)
    torch.testing.assert_close(gem_project(t(-0.1, 1), one, margin=0.5, eps=1e-3), t(0.4, 1), atol=1e-12, rtol=0)
    # {x: x_1 >= 0, x_1 + x_2 >= 0}: the nearest point to (-1, .5) is (0, .5), although both products are negative.
    two = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(gem_project(t(-1, 0.5), two, margin=0, eps=1e-12), t(0, 0.5), atol=1e-6, rtol=0)
    # A margin adds every memory gradient, the satisfied ones too: v = (1/1.001, .5) for orthogonal ones.
    found = gem_project(t(-1, 3), torch.eye(2), margin=0.5, eps=1e-3)
    torch.testing.assert_close(found, t(-1 + 1 / 1.001, 3.5), atol=1e-12, rtol=0)


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_gem_equals_trying_every_active_set(seed: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    gradient, memory = rng.normal(size=12), rng.normal(size=(5, 12))
    memory[4] = memory[0]  # dependent
    memory[0] *= -np.sign(memory[0] @ gradient)
    wanted = brute_force(gradient, memory, margin, 1e-3)
    found = gem_project(torch.from_numpy(gradient), torch.from_numpy(memory), margin, 1e-3)
    assert not np.allclose(wanted, gradient)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-8)


def test_nothing_is_done_where_no_product_is_negative() -> None:
    gradient = t(1, 0)
    assert gem_project(gradient, torch.tensor([[1.0, 5.0], [0.0, 1.0]]), 0.5, 1e-3) is gradient
    assert agem_project(gradient, t(0.1, -3)) is gradient
    assert project_out(gradient, torch.zeros(2, 2)) is gradient


def test_ogpsa_takes_out_the_span_whatever_the_sign() -> None:
    """(2, 0, 0) and (1, 1, 0) span the first two axes; a zero and a dependent row change nothing."""
    references = torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0, 0], [3, 1, 0]])
    for sign in (1, -1):
        found = project_out(sign * t(3, 4, 5), references)
        torch.testing.assert_close(found, sign * t(0, 0, 5), atol=1e-12, rtol=0)
    torch.testing.assert_close(project_out(t(3, 4, 5), references[:1]), t(0, 4, 5), atol=1e-12, rtol=0)
