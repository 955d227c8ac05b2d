"""Quantised checkpoints that this machine cannot run: one message each, before any weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.config import ModelConfig
from lifealign.core.errors import ModelError
from lifealign.model.base import load_base
from lifealign.model.checkpoint import quantisation_of
from support.tiny import save_tiny

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


def with_config(directory: Path, **values: Any) -> Path:
    """A tiny model whose `config.json` has these values too."""
    save_tiny(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | values))
    return directory


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
