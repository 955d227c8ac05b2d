"""Compiled decoder layers, here by the backend that compiles nothing: the same numbers, and the model's own forward after it."""

from __future__ import annotations

import pytest
import torch

from lifealign.core.config import LoraConfig
from lifealign.model.adapters import attach_lora, causal_lm, trainable
from lifealign.model.compiling import COMPILED, compile_layers, compiled_layers, is_compiled, leave_uncompiled
from lifealign.model.encoding import EncodedPair
from lifealign.model.frozen_linear import freeze
from lifealign.model.logps import token_logps
from lifealign.model.packing import pack_pairs
from support.tiny import make_model


@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_give_the_same_and_are_left_again() -> None:
    base = make_model()
    freeze(base)
    model = attach_lora(base, LoraConfig(r=2), 0)
    lm = causal_lm(model)
    for parameter in trainable(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    pairs = [EncodedPair((3, 4, 5, 6), (7, 8, 9), (10, 11), False, False, str(i), i, 2) for i in range(3)]

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        logps = token_logps(model, pack_pairs(pairs, range(3), shared_prefix=True)).token_T
        return logps.detach(), list(torch.autograd.grad(logps.sum(), list(trainable(model).values())))

    wanted, gradients = run()
    assert not is_compiled(lm)
    assert compile_layers(lm, backend="aot_eager") == lm.config.num_hidden_layers
    assert is_compiled(lm)
    found, others = run()
    assert torch.allclose(wanted, found, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(gradients, others, strict=True))
    layer = getattr(lm, COMPILED)[0][0]
    with compiled_layers(lm):
        assert "forward" in vars(layer)
    assert "forward" not in vars(layer)
    leave_uncompiled(lm)
    assert not is_compiled(lm)
