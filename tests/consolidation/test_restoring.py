"""Elements put back by sign and size of a gradient (arXiv 2504.09757), on hand-made weights."""

from __future__ import annotations

import math

import pytest
import torch

from lifealign.consolidation.restoring import choose, count_of, elements, largest, mixed, moved, nothing, restorable

EARLIER = {"a": torch.tensor([[0.0, 0.0, 0.0], [0.0, 5.0, 0.0]])}
NOW = {"a": torch.tensor([[1.0, -1.0, 2.0], [3.0, 5.0, 4.0]])}
GRADIENT = {"a": torch.tensor([[0.5, 0.9, 0.5], [-0.7, 0.8, 0.0]])}


def chosen(count: int, **more: object) -> list[int]:
    mask = choose(NOW, EARLIER, GRADIENT, count, **more)["a"]  # type: ignore[arg-type]
    return mask.reshape(-1).nonzero().reshape(-1).tolist()


def test_an_element_is_eligible_if_its_way_back_is_downhill() -> None:
    """sign(now - earlier) == sign(gradient): of six, the second and the fourth would climb."""
    assert chosen(6) == [0, 2]


def test_an_element_that_is_there_already_or_without_gradient_is_not_eligible() -> None:
    """Sign 0 equals no sign: the fifth is equal at both points, and the loss does not depend on the sixth."""
    assert not {4, 5} & set(chosen(6))


def test_of_equal_gradients_at_the_threshold_the_first_is_taken() -> None:
    """The first and the third have the gradient 0.5; k = 1 is 1, where the authors' script restores both."""
    assert chosen(1) == [0]


def test_nothing_is_chosen_outside_of_a_mask_or_for_a_count_of_0() -> None:
    among = {"a": torch.tensor([[False, True, True], [True, True, True]])}
    assert chosen(6, among=among) == [2] and chosen(0) == []


def test_the_count_is_over_all_tensors() -> None:
    mask = largest({"a": torch.tensor([[3.0, 1.0]]), "b": torch.tensor([[2.0], [4.0]])}, 2)
    assert mask["a"].tolist() == [[True, False]] and mask["b"].tolist() == [[False], [True]]


@pytest.mark.parametrize(("rate", "total", "k"), [(0.001, 2000, 2), (0.001, 2001, 3), (1.0, 7, 7), (1e-9, 5, 1)])
def test_k_is_the_ceiling_of_the_rate(rate: float, total: int, k: int) -> None:
    assert count_of(rate, total) == k


def test_a_mixed_weight_has_the_values_of_the_two_points_alone() -> None:
    mask = choose(NOW, EARLIER, GRADIENT, 2)
    weights = mixed(mask, EARLIER, NOW)["a"]
    assert torch.equal(weights, torch.tensor([[0.0, -1.0, 0.0], [3.0, 5.0, 4.0]]))
    assert moved(mask, EARLIER, NOW) == pytest.approx(math.sqrt(1 + 4))
    assert moved(nothing(NOW), EARLIER, NOW) == 0 and elements(NOW) == 6


def test_embeddings_normalisations_vectors_and_the_output_layer_stay() -> None:
    names = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj.lora_A",
        "model.embed_tokens",
        "model.layers.0.input_layernorm",
        "transformer.wte",
        "transformer.h.0.ln_1",
        "lm_head",
    ]
    weights = {name: torch.zeros(2, 2) for name in names} | {"model.layers.0.bias": torch.zeros(2)}
    assert restorable(weights) == names[:2]
