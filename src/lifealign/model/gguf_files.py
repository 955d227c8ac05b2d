"""Write a model or an adapter as a GGUF file for llama.cpp, and read it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lifealign.core.errors import ConfigError, ModelError
from lifealign.core.version import __version__
from lifealign.model.gguf_layout import ROPE_FACTORS, Layout, load_gguf
from lifealign.model.reloading import checksum

TYPES = ("f16", "bf16", "f32")
"""Number formats of a merged model's matrices; the first is the default."""


@contextmanager
def _writer(path: Path, layout: Layout) -> Iterator[Any]:
    writer = load_gguf().GGUFWriter(path, layout.architecture.name)
    try:
        yield writer
    finally:
        writer.close()


def write_model(
    model: PreTrainedModel, path: Path, number: str, describe: Callable[[Any], None], modules: list[str]
) -> dict[str, str]:
    """Write a whole model, one tensor at a time.

    Args:
        model: float32, without an adapter.
        path: of the file.
        number: one of `TYPES`, for matrices; vectors stay float32.
        describe: writes the name, the licence and the tokenizer.
        modules: names of the modules that were trained.

    Returns:
        llama.cpp's name of each trained weight -> checksum of its bytes.

    Raises:
        ConfigError: an architecture or a number that the file cannot hold.
    """
    gguf = load_gguf()
    layout = Layout(model.config)
    factors = layout.rope_factors(model)
    tensors = {layout.name(name): p.detach() for name, p in model.named_parameters()}  # tied ones once
    if factors is not None:
        tensors[ROPE_FACTORS] = factors
    trained = {layout.name(f"{name}.weight") for name in modules}
    kinds = {
        name: getattr(gguf.GGMLQuantizationType, "F32" if t.ndim < 2 else number.upper()) for name, t in tensors.items()
    }
    sums = {}
    with _writer(path, layout) as writer:
        writer.add_type(gguf.GGUFType.MODEL)
        layout.hyperparameters(writer)
        file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}[number]
        writer.add_file_type(getattr(gguf.LlamaFileType, file_type))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        describe(writer)
        for name, tensor in tensors.items():
            size = tensor.numel() * (4 if kinds[name] == gguf.GGMLQuantizationType.F32 else 2)
            writer.add_tensor_info(name, tuple(tensor.shape), torch.empty(0).numpy().dtype, size, kinds[name])
        for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_ti_data_to_file):
            write()
        for name, tensor in tensors.items():
            values = layout.out(name, tensor).float().cpu()
            if kinds[name] == gguf.GGMLQuantizationType.F16 and values.abs().max() > torch.finfo(torch.float16).max:
                raise ConfigError(
                    f"{path.name}: a value of {name} is too large for f16; export with --gguf-type bf16 or f32"
                )
            data = gguf.quantize(values.numpy(), kinds[name])
            if name in trained:
                sums[name] = checksum(torch.from_numpy(data))
            writer.write_tensor_data(data)
    return sums


def write_adapter(model: nn.Module, path: Path, name: str) -> dict[str, str]:
    """Write the LoRA of a PEFT model in float32.

    Args:
        model: of PEFT, with one adapter.
        path: of the file.
        name: of the adapter, for people.

    Returns:
        llama.cpp's name of each factor -> checksum.

    Raises:
        ConfigError: an architecture that was not checked, or an adapter with more than A and B.
    """
    gguf = load_gguf()
    base: Any = model.get_base_model()  # type: ignore[operator]
    layout = Layout(base.config)
    layers = lora_layers(base)
    scales = {module: layer.scaling["default"] for module, layer in layers.items()}
    first = next(iter(layers))
    # llama.cpp multiplies by alpha / rank, with one alpha in the file: any other scale goes into B.
    alpha = scales[first] * layers[first].r["default"]
    sums = {}
    with _writer(path, layout) as writer:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
        writer.add_string("general.description", f"written by lifealign {__version__}")
        for module, layer in layers.items():
            own = layout.name(f"{module}.weight")
            a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
            share = scales[module] * layer.r["default"] / alpha
            for end, factor in (("lora_a", a), ("lora_b", layout.out(own, b) * share)):
                data = factor.float().cpu().contiguous()
                sums[f"{own}.{end}"] = checksum(data)
                writer.add_tensor(f"{own}.{end}", data.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file(progress=False)
    return sums


def lora_layers(base: nn.Module) -> dict[str, Any]:
    """Module -> its LoRA layer, in the order of the model.

    Raises:
        ConfigError: a layer that is more than W + B A.
    """
    layers: dict[str, Any] = {name: m for name, m in base.named_modules() if getattr(m, "lora_A", None)}
    for name, layer in layers.items():
        if len(layer.lora_A) != 1 or getattr(layer, "lora_magnitude_vector", None):
            raise ConfigError(
                f"{name}: a GGUF adapter holds one A and one B of a matrix; export with --format gguf or merged"
            )
    return layers


def read_tensors(path: Path) -> dict[str, tuple[Tensor, str]]:
    """Tensors of a GGUF file in float32, each with the checksum of its bytes as they are in the file."""
    gguf = load_gguf()
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        data = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).reshape(shape)
        found[str(tensor.name)] = (data, checksum(torch.from_numpy(tensor.data.copy())))
    return found


@torch.no_grad()
def put_model(model: PreTrainedModel, path: Path) -> dict[str, str]:
    """Put the weights of a GGUF file into a model of the same shape; a weight that the file lacks becomes NaN.

    Returns:
        llama.cpp's name of each tensor -> checksum of its bytes.
    """
    layout, found = Layout(model.config), read_tensors(path)
    for own, parameter in model.named_parameters():
        name = layout.name(own)
        parameter.fill_(torch.nan)
        if name in found:
            parameter.copy_(layout.back(name, found[name][0]))
    return {name: checksum_ for name, (_, checksum_) in found.items()}


@torch.no_grad()
def put_adapter(model: nn.Module, path: Path) -> dict[str, str]:
    """Put the factors of a GGUF adapter into a PEFT model's own, with the file's scale; a missing one becomes NaN.

    Returns:
        llama.cpp's name of each factor -> checksum of its bytes.

    Raises:
        ModelError: the file is no LoRA adapter.
    """
    gguf = load_gguf()
    fields: Mapping[str, Any] = gguf.GGUFReader(path).fields
    if fields["general.type"].contents() != "adapter" or fields[gguf.Keys.Adapter.TYPE].contents() != "lora":
        raise ModelError(f"{path}: not a LoRA adapter in GGUF")
    alpha = float(fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
    base: Any = model.get_base_model()  # type: ignore[operator]
    layout, found = Layout(base.config), read_tensors(path)
    for module, layer in lora_layers(base).items():
        own = layout.name(f"{module}.weight")
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        for factor in (a, b):
            factor.fill_(torch.nan)
        if f"{own}.lora_a" in found and f"{own}.lora_b" in found:
            a.copy_(found[f"{own}.lora_a"][0])
            b.copy_(layout.back(own, found[f"{own}.lora_b"][0]) * (alpha / len(a) / layer.scaling["default"]))
    return {name: checksum_ for name, (_, checksum_) in found.items()}
