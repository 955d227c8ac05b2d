"""What a checkpoint is before its weights are read: quantised, or with code of its own. One message each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.config import ModelConfig, RunConfig
from lifealign.core.errors import ConfigError, ModelError, StoreError
from lifealign.memory.api import Memory
from lifealign.model.base import load_base
from lifealign.model.checkpoint import quantisation_of
from support.tiny import CODE, save_tiny, save_with_code, with_config

NO_GPU = pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="refused for want of a GPU")


def missing(*packages: str) -> pytest.MarkDecorator:
    """Skip where a package that the refusal names is installed."""
    import importlib.util

    found = [p for p in packages if importlib.util.find_spec(p) is not None]
    return pytest.mark.skipif(bool(found), reason=f"installed: {found}")


QUANTISED = [
    pytest.param(
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        r"quantised \(bitsandbytes, 4 bits\) .* requires bitsandbytes",
        marks=missing("bitsandbytes"),
        id="bitsandbytes-4",
    ),
    pytest.param(
        {"load_in_8bit": True},
        r"quantised \(bitsandbytes, 8 bits\) .* requires bitsandbytes",
        marks=missing("bitsandbytes"),
        id="bitsandbytes-8-unnamed",
    ),
    pytest.param(
        {"quant_method": "gptq", "bits": 4, "group_size": 32},
        r"quantised \(gptq, 4 bits\) .* requires optimum",
        marks=missing("optimum"),
        id="gptq",
    ),
    pytest.param(
        {"quant_method": "awq", "bits": 4, "group_size": 32},
        r"quantised \(awq, 4 bits\) .* requires gptqmodel",
        marks=missing("gptqmodel"),
        id="awq",
    ),
    pytest.param(
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
        r"quantised \(fp8\) .* on this device \(cpu\), so transformers would dequantise the weights",
        marks=NO_GPU,
        id="fp8",
    ),
    pytest.param({"quant_method": "fp8", "dequantize": True}, r"would dequantise the weights", id="fp8-dequantised"),
    pytest.param({"quant_method": "mxfp4"}, r"quantised \(mxfp4\)", marks=missing("kernels"), id="mxfp4"),
    pytest.param({"quant_method": "fbgemm_fp8"}, r"quantised \(fbgemm_fp8\) .* GPU", marks=NO_GPU, id="fbgemm"),
    pytest.param(
        {"quant_method": "torchao", "quant_type": {"default": "int8_weight_only"}, "quant_type_kwargs": {}},
        r"quantised \(torchao\) .*torchao",
        marks=missing("torchao"),
        id="torchao",
    ),
    pytest.param(
        {"quant_method": "compressed-tensors", "config_groups": {}},
        r"quantised \(compressed-tensors\) .*compressed",
        marks=missing("compressed_tensors"),
        id="compressed-tensors",
    ),
    pytest.param(
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}},
        r"quantised \(hqq\) ",
        marks=missing("hqq"),
        id="hqq",
    ),
    pytest.param({"quant_method": "quanto", "weights": "int8"}, r"quanto", marks=missing("optimum"), id="quanto"),
    pytest.param({"quant_method": "exl2", "bits": 4.25}, r"quantised \(exl2\) .* does not know", id="exl2"),
    pytest.param({"quant_method": "mystery"}, r"quantised \(mystery\) .* does not know", id="unknown"),
    pytest.param({"group_size": 64, "bits": 4}, r"quantised \(mlx, 4 bits\) .* does not know", id="mlx"),
    pytest.param({"zero_point": True}, r"quantised \(method not named\)", id="unnamed"),
    pytest.param("int4", r"quantised \('int4'\) .* does not know", id="not-an-object"),
]


@pytest.mark.parametrize(("settings", "message"), QUANTISED)
def test_quantisation_that_cannot_run_is_named_with_what_is_missing(
    settings: Any, message: str, tmp_path: Path
) -> None:
    model = with_config(tmp_path / "model", quantization_config=settings)
    with pytest.raises(ModelError, match=message) as caught:
        load_base(ModelConfig(name=str(model), dtype="float32"))
    assert "\n" not in str(caught.value) and "give the checkpoint that is not quantised" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "method"),
    [
        ({"text_config": {"quantization_config": {"quant_method": "awq", "bits": 4}}}, "awq"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization": {"group_size": 64, "bits": 8}}, "mlx"),
    ],
)
def test_quantisation_is_found_in_each_place_of_a_config(values: dict[str, Any], method: str, tmp_path: Path) -> None:
    found = quantisation_of(values, tmp_path)
    assert found is not None and found["quant_method"] == method


@pytest.mark.parametrize(
    ("name", "text", "method"),
    [
        ("quantize_config.json", '{"bits": 4, "group_size": 128, "desc_act": false}', "quantize_config.json"),
        ("quant_config.json", '{"quant_method": "awq", "w_bit": 4}', "awq"),
        ("hf_quant_config.json", "not JSON", "hf_quant_config.json"),
    ],
)
def test_quantisation_is_found_in_files_of_older_tools(name: str, text: str, method: str, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    (model / name).write_text(text)
    found = quantisation_of({}, model)
    assert found is not None and found["quant_method"] == method
    with pytest.raises(ModelError, match=f"is quantised \\({method}"):
        load_base(ModelConfig(name=str(model), dtype="float32"))


def test_plain_checkpoint_is_not_taken_for_a_quantised_one(tiny_dir: Path) -> None:
    assert quantisation_of(json.loads((tiny_dir / "config.json").read_text()), tiny_dir) is None
    assert "quantisation" not in load_base(ModelConfig(name=str(tiny_dir), dtype="float32")).identity


def test_damaged_weights_are_one_message_too(tmp_path: Path) -> None:
    model = with_config(tmp_path / "model", hidden_size=48)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(ModelConfig(name=str(model), dtype="float32"))


STOP = "raise SystemExit('code of the checkpoint was run')\n"


def test_code_of_a_checkpoint_is_never_run_or_asked_about_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))
    model = save_with_code(tmp_path / "model", STOP)
    with pytest.raises(ModelError, match=r"needs Python code of its own, which is not run: .*trust_remote_code=true"):
        load_base(ModelConfig(name=str(model), dtype="float32"))


def test_code_of_a_tokenizer_is_never_run_or_asked_about_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))
    model = save_tiny(tmp_path / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "mine.py").write_text(STOP)
    with pytest.raises(ModelError, match="needs Python code of its own, which is not run"):
        load_base(ModelConfig(name=str(model), dtype="float32"))


def test_code_is_run_where_the_user_says_so_and_belongs_to_the_identity(tmp_path: Path) -> None:
    model = save_with_code(tmp_path / "model")
    trusted = ModelConfig(name=str(model), dtype="float32", trust_remote_code=True)
    base = load_base(trusted)
    assert type(base.model).__name__ == "MyLM" and base.notes == ()
    assert load_base(trusted).identity == base.identity and len(base.identity["code"]) == 64
    (model / "mine.py").write_text(CODE + "# another version\n")
    again = load_base(trusted)
    assert again.identity["code"] != base.identity["code"]
    assert again.identity["weights"] == base.identity["weights"]


def test_code_that_fails_is_one_message(tmp_path: Path) -> None:
    model = save_with_code(tmp_path / "model", "import no_such_package\n")
    with pytest.raises(ModelError, match=r"cannot be loaded: .*no_such_package"):
        load_base(ModelConfig(name=str(model), dtype="float32", trust_remote_code=True))


def test_code_is_left_alone_and_named_where_transformers_has_the_class(tmp_path: Path) -> None:
    model = save_with_code(tmp_path / "model", STOP, model_type="llama", architectures=["LlamaForCausalLM"])
    base = load_base(ModelConfig(name=str(model), dtype="float32"))
    assert type(base.model).__name__ == "LlamaForCausalLM" and "code" not in base.identity
    assert base.notes == (
        f"base model '{model}' brings code of its own, which is not run; transformers' own class reads it",
    )


def test_trust_without_code_is_refused(tiny_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.trust_remote_code=true has no effect"):
        load_base(ModelConfig(name=str(tiny_dir), dtype="float32", trust_remote_code=True))


def test_configuration_without_code_is_written_as_before() -> None:
    assert "trust_remote_code" not in ModelConfig().model_dump(mode="json")
    assert ModelConfig(trust_remote_code=True).model_dump(mode="json")["trust_remote_code"] is True


def test_memory_is_not_opened_with_other_code(tmp_path: Path) -> None:
    model = save_with_code(tmp_path / "model")
    settings = {"model": {"name": str(model), "dtype": "float32", "trust_remote_code": True}}
    Memory.create(tmp_path / "memory", RunConfig.model_validate(settings))
    memory = Memory.open(tmp_path / "memory")
    assert len(memory.generate(["how do I bake bread?"], max_new_tokens=2)) == 1
    (model / "mine.py").write_text(CODE + "# another version\n")
    with pytest.raises(StoreError, match="wrong code of the base model"):
        Memory.open(tmp_path / "memory").generate(["how do I bake bread?"], max_new_tokens=2)
