"""Which modules get an adapter: by names and as `all-linear`, on every kind of model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from lifealign.core.config import LoraConfig
from lifealign.core.errors import ConfigError
from lifealign.model.adapters import NOTES, attach_lora, trainable
from lifealign.model.lora_targets import find_targets
from support.tiny import make_model

SMALL: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
EXPERTS: dict[str, Any] = {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
DENSE = ATTENTION | {"gate_proj", "up_proj", "down_proj"}


def experts(**more: Any) -> PreTrainedModel:
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**SMALL, **HEADS, **EXPERTS, **more))


def hybrid() -> PreTrainedModel:
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
    config = transformers.Qwen3NextConfig(
        **SMALL,
        **HEADS,
        **EXPERTS,
        **linear,
        linear_value_head_dim=8,
        shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
    )
    return transformers.Qwen3NextForCausalLM(config)


def multimodal() -> PreTrainedModel:
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Gemma3Config(
        text_config={**SMALL, **HEADS, "head_dim": 8},
        vision_config=vision | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def adapted(model: PreTrainedModel, *targets: str) -> tuple[set[str], str]:
    """Last names of the modules with an adapter, and the notes; none is in a vision tower."""
    made = attach_lora(model.requires_grad_(False), LoraConfig(r=2, target_modules=targets), 0)
    names = [name.rpartition(".")[0] for name in trainable(made)]
    assert names and not [name for name in names if "vision" in name]
    return {name.rpartition(".")[2] for name in names}, " ".join(getattr(made, NOTES))


ALL = {
    "llama": (lambda: make_model("llama"), DENSE, "the vocabulary projection (lm_head)"),
    "gpt2": (lambda: make_model("gpt2"), {"c_attn", "c_proj", "c_fc"}, "the vocabulary projection (lm_head)"),
    "gemma3": (lambda: make_model("gemma3"), DENSE, "lm_head"),
    "experts": (experts, ATTENTION, "routers of experts (gate); experts kept as parameters (down_proj, gate_up_proj)"),
    "some dense layers": (
        lambda: experts(mlp_only_layers=[0]),
        ATTENTION,
        "modules named like them (down_proj, gate_proj, up_proj)",
    ),
    "hybrid": (
        hybrid,
        ATTENTION | {"in_proj_qkvz", "in_proj_ba", "out_proj"},
        "routers of experts (gate, shared_expert_gate)",
    ),
    "multimodal": (multimodal, DENSE, "outside the text part ("),
}


@pytest.mark.parametrize("kind", ALL)
def test_all_linear(kind: str) -> None:
    build, modules, note = ALL[kind]
    found, notes = adapted(build(), "all-linear")
    assert found == modules and note in notes, (found, notes)


def test_names_reach_the_text_part_alone() -> None:
    found, notes = adapted(multimodal(), "q_proj", "v_proj")
    assert found == {"q_proj", "v_proj"} and "no adapter on outside the text part (q_proj, v_proj)" in notes


def test_names_on_a_plain_model_are_handed_on_as_they_are() -> None:
    targets = find_targets(make_model("llama"), ("q_proj", "v_proj"))
    assert (targets.modules, targets.transposed, targets.notes) == (("q_proj", "v_proj"), False, ())
    assert find_targets(make_model("gpt2"), ("c_attn",)).transposed


REFUSED = [
    (
        "experts",
        ("gate_proj", "up_proj"),
        r"experts are kept as parameters \(gate_up_proj\), which cannot get an adapter",
    ),
    ("experts", ("down_proj",), r"experts are kept as parameters \(down_proj\)"),
    ("experts", ("gate",), r"gate chooses experts, which an adapter must leave alone"),
    ("hybrid", ("shared_expert_gate",), r"shared_expert_gate chooses experts"),
    ("multimodal", ("fc1",), r"vision_tower\S+fc1 does not read text"),
    (
        "gpt2",
        ("q_proj",),
        r"no linear module has such a name; linear modules of this model: \['c_attn', 'c_fc', 'c_proj'",
    ),
    ("llama", ("embed",), r"no linear module has such a name; .* or all-linear"),
]


@pytest.mark.parametrize(("kind", "targets", "message"), REFUSED)
def test_targets_without_a_linear_module_are_refused(kind: str, targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attach_lora(ALL[kind][0](), LoraConfig(target_modules=targets), 0)


def test_names_that_only_some_modules_have_are_said() -> None:
    found, notes = adapted(make_model("llama"), "q_proj", "wq")
    assert found == {"q_proj"} and "no module of this model is named wq" in notes
    found, notes = adapted(experts(mlp_only_layers=[0]), "q_proj", "down_proj")
    assert (
        found == {"q_proj"} and "experts kept as parameters (down_proj); modules named like them (down_proj)" in notes
    )


def test_rank_stabilised_scale() -> None:
    """16 / sqrt(4) = 8 where the usual scale is 16 / 4 = 4."""
    lora = LoraConfig(r=4, alpha=16, rslora=True)
    assert (lora.scale, LoraConfig(r=4, alpha=16).scale) == (8.0, 4.0)
    made: Any = attach_lora(make_model("llama"), lora, 0)
    layer = made.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == pytest.approx(8.0)
    with torch.no_grad():
        layer.lora_B["default"].weight.fill_(0.01)
        x = torch.ones(1, 32)
        change = layer(x) - layer.base_layer(x)
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.allclose(change, 8.0 * x @ product.T, atol=1e-5)
    assert "rslora" not in LoraConfig().model_dump() and lora.model_dump()["rslora"] is True


def test_all_linear_is_one_word_or_a_list() -> None:
    assert LoraConfig.model_validate({"target_modules": "all-linear"}) == LoraConfig(target_modules=("all-linear",))


def test_what_peft_refuses_for_a_kind_of_model_is_a_users_mistake() -> None:
    config = transformers.Mamba2Config(
        hidden_size=32, num_hidden_layers=1, num_heads=4, head_dim=16, state_size=8, n_groups=1, vocab_size=50
    )
    with pytest.raises(ConfigError, match=r"PEFT refuses them for Mamba2ForCausalLM: .*out_proj"):
        attach_lora(transformers.Mamba2ForCausalLM(config), LoraConfig(target_modules=("in_proj", "out_proj")), 0)
