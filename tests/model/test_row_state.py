"""Layers that carry a state along a row go to plain rows by their kind; what is left is measured against rounding."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from lifealign.core.progress import NullProgress
from lifealign.memory.api import Memory
from lifealign.model import logps
from lifealign.model.encoding import EncodedPair, Encoder
from lifealign.model.logps import probe, token_logps
from lifealign.model.packing import pack_pairs
from lifealign.model.rounding import in_float32, widened
from lifealign.model.row_state import carries_state
from lifealign.testing import tiny_config
from support.rows import make_task, rows
from support.tiny import make_model, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
SCAN: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_n_groups": 1}
DELTA: dict[str, Any] = {
    "head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
STATEFUL: dict[str, tuple[str, dict[str, Any]]] = {
    "convolution": ("Lfm2Config", {**SMALL, **HEADS, "layer_types": ["conv", "full_attention"]}),
    "delta rule": ("Qwen3NextConfig", {**SMALL, **HEADS, **DELTA}),
    "scan": (
        "Mamba2Config",
        {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    ),
    "older scan": ("MambaConfig", {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}),
    "scan beside attention": ("FalconH1Config", {**SMALL, **HEADS, **SCAN, "mamba_d_ssm": 64}),
    "recurrence without a convolution": (
        "RwkvConfig",
        {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
    ),
}


def stateful(kind: str, std: float = 0.15) -> PreTrainedModel:
    name, settings = STATEFUL[kind]
    config = getattr(transformers, name, None)
    if config is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    torch.manual_seed(0)
    model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config(**settings))
    model.requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def pairs() -> list[EncodedPair]:
    return Encoder(make_tokenizer(), "chat", 512).encode(rows("bread", 5))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", STATEFUL)
def test_layers_with_a_state_take_plain_rows(kind: str, dtype: torch.dtype) -> None:
    reason = probe(stateful(kind).to(dtype), pairs())
    assert reason is not None and "packed rows would leak through its layers that carry a state along a row" in reason


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3", "gpt2", "bloom"])
def test_attention_carries_no_state(kind: str) -> None:
    assert carries_state(make_model(kind)) is None


def test_a_kind_of_layer_that_is_not_known_takes_plain_rows() -> None:
    model = make_model("gemma3")
    model.config.layer_types = ["sliding_attention", "some_new_layer"]
    assert carries_state(model) == "some_new_layer"


def test_a_convolution_of_a_vision_tower_is_none_of_the_text() -> None:
    text = {**SMALL, **HEADS, "head_dim": 8}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    model.model.vision_tower.extra = torch.nn.Conv1d(4, 4, 3)
    assert carries_state(model) is None


@pytest.mark.parametrize("kind", ["convolution", "delta rule", "scan beside attention"])
def test_a_leak_is_more_than_rounding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds that are known, as if they were not: below the old tolerance of 0.1 nats a token."""
    monkeypatch.setattr(logps, "carries_state", lambda lm: None)
    model = stateful(kind, 0.1).to(torch.bfloat16)
    data = pairs()
    assert "by more than rounding" in str(probe(model, data))
    with torch.no_grad():
        packed = token_logps(model, pack_pairs(data, range(3), shared_prefix=True)).token_T
        plain = [token_logps(model, pack_pairs(data, [i], shared_prefix=False)).token_T for i in range(3)]
    assert float((packed - torch.cat(plain)).abs().mean()) < 0.1


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3", "gpt2"])
def test_rounding_is_measured_against_float32(kind: str) -> None:
    half = make_model(kind).to(torch.bfloat16)
    whole = copy.deepcopy(half)  # with its buffers as they are
    for parameter in whole.parameters():
        parameter.data = parameter.data.float()
    before = {name: p.clone() for name, p in half.named_parameters()}
    pack = pack_pairs(pairs(), [0], shared_prefix=False)
    with torch.no_grad():
        exact = token_logps(half, pack)
        with in_float32(half):
            up = token_logps(half, pack)
        assert torch.allclose(up.token_T, token_logps(whole, pack).token_T, atol=1e-5)
        assert not torch.equal(up.token_T, exact.token_T)
        assert torch.allclose(token_logps(half, widened(pack, 7)).token_T, exact.token_T, atol=0.05)
    assert all(p.dtype == torch.bfloat16 and torch.equal(p, before[n]) for n, p in half.named_parameters())


def test_a_run_says_that_it_takes_plain_rows(tmp_path: Path) -> None:
    class Said(NullProgress):
        lines: ClassVar[list[str]] = []

        def say(self, text: str) -> None:
            self.lines.append(text)

    stateful("convolution").save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    memory = Memory.create(tmp_path / "memory", tiny_config(tmp_path / "model", tmp_path / "memory"))
    said = Said()
    memory.learn(make_task("bread", train=6, test=2), progress=said)
    assert any("Lfm2ForCausalLM: packed rows would leak" in line and "plain rows" in line for line in said.lines)
    assert memory._store.head.meta["shared_prefix"] is False
