"""A LoRA adapter that others trained: read by stock PEFT, refused where it is more than LoRA, put into our form.

Shapes: r rank of a module of the adapter, R rank of the memory (r <= R), I inputs, O outputs.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from lifealign.core.config import LoraConfig
from lifealign.core.errors import ConfigError, ModelError
from lifealign.model.adapter_files import CONFIG, WEIGHTS, adapter_files_sha256, refuse_config
from lifealign.model.adapters import causal_lm
from lifealign.model.base_files import read_object
from lifealign.model.checkpoint import one_line
from lifealign.model.wheels import quiet

PROBE = 32
"""Tokens on which the model with the adapter is compared with stock PEFT's."""
NOISE, SHARE = 1e-4, 0.02
"""Mean difference of logits that is rounding, and share of the adapter's own change that a difference may reach."""


@dataclass(frozen=True)
class Imported:
    """What `read_adapter` found.

    Attributes:
        source: folder or hub id, as given.
        sha256: of its configuration and its weights.
        trained_on: the base model that its configuration names; None: it names none.
        factors: `<module>.lora_A` [r, I] and `<module>.lora_B` [O, r], float32.
        scales: module -> factor of B A in dW.
        lora: settings of a memory that hold it exactly.
        tokens: of the comparison.
        logits: [T, V] of stock PEFT on them, and `base` those of the base model alone.
    """

    source: str
    sha256: str
    trained_on: str | None
    factors: Mapping[str, Tensor]
    scales: Mapping[str, float]
    lora: LoraConfig
    tokens: Sequence[int]
    logits: Tensor
    base: Tensor

    @property
    def rank(self) -> int:
        """The largest rank of a module."""
        return max(t.shape[0] for name, t in self.factors.items() if name.endswith(".lora_A"))

    @property
    def identity(self) -> dict[str, Any]:
        """What a memory that began with it is tied to."""
        return {"source": self.source, "sha256": self.sha256}

    def lines(self) -> list[str]:
        """What was read, for people."""
        lora = self.lora
        scale = f"alpha {lora.alpha:g}" + (", rslora" if lora.rslora else "")
        named = ", ".join(sorted({m.rpartition(".")[2] for m in self.scales}))
        return [
            f"adapter {self.source}: rank {self.rank}, {scale}, {len(self.scales)} modules ({named}), SHA-256 {self.sha256[:12]}..."
        ]


def fetch_adapter(source: str) -> Path:
    """The folder of an adapter; one that is named by a hub id is downloaded.

    Raises:
        ModelError: there is no such folder or id, or it holds no PEFT adapter.
    """
    local = Path(source).expanduser()
    if not local.exists():
        try:
            with quiet():
                local = Path(snapshot_download(source, allow_patterns=["adapter_*", "tokenizer*", "chat_template*"]))
        except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
            raise ModelError(
                f"adapter {source!r} is not found: {one_line(error).partition('. ')[0]}; give the folder of a PEFT adapter, or its hub id"
            ) from error
    missing = [name for name in (CONFIG,) if not (local / name).is_file()]
    if missing or not any((local / name).is_file() for name in WEIGHTS):
        lacking = missing or [" or ".join(WEIGHTS)]
        raise ModelError(f"adapter {source!r} has no {lacking[0]}; give the folder of a PEFT adapter")
    return local


def read_adapter(base: PreTrainedModel, source: str, name: str) -> Imported:
    """Load an adapter on the base model with stock PEFT, take its factors, and take it off again.

    Args:
        base: frozen, without an adapter; is the same afterwards.
        source: folder or hub id.
        name: of the base model, for messages.

    Raises:
        ModelError: it is no LoRA adapter of linear modules alone, or belongs to another base model.
    """
    folder = fetch_adapter(source)
    config = read_object(folder / CONFIG)
    refuse_config(source, config)
    tokens = _probe(base)
    before = _logits(base, tokens)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a key without a place is found below
            held = peft.utils.load_peft_weights(str(folder), device="cpu")
            model = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    except Exception as error:  # for files of others, PEFT raises whatever its code comes upon
        raise ModelError(
            f"adapter {source!r} cannot be loaded on base model {name!r}: {one_line(error)[:300]}; give the base model that it was "
            f"trained on ({config.get('base_model_name_or_path')!r} by its {CONFIG})"
        ) from error
    try:
        _check_loaded(source, name, held, model)
        factors, scales = _factors(source, model)
        after = _logits(model, tokens)
    finally:
        model.unload()
        if hasattr(base, "peft_config"):
            del base.peft_config
    lora = _settings(base, config, factors, scales)
    trained_on = config.get("base_model_name_or_path")
    sha256 = adapter_files_sha256(folder)
    return Imported(source, sha256, trained_on, factors, scales, lora, tokens, after, before)


def _probe(base: PreTrainedModel) -> list[int]:
    """Token ids drawn from the whole vocabulary, the same each time."""
    rows = base.get_input_embeddings().weight.shape[0]
    return torch.randint(rows, (PROBE,), generator=torch.Generator().manual_seed(0)).tolist()


@torch.no_grad()
def _logits(model: nn.Module, tokens: Sequence[int]) -> Tensor:
    ids = torch.tensor([list(tokens)], device=next(model.parameters()).device)
    found: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float().cpu()
    return found


def _check_loaded(source: str, name: str, held: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse an adapter of which a tensor has no place in the model, or that leaves one of the model's unset.

    Compared by values: PEFT translates names of other versions of a model.
    """

    def count(tensors: Mapping[str, Tensor]) -> Counter[str]:
        return Counter(hashlib.sha256(t.float().contiguous().numpy().tobytes()).hexdigest() for t in tensors.values())

    loaded = {key: t.detach().cpu() for key, t in peft.get_peft_model_state_dict(model).items()}
    lost, extra = count(held) - count(loaded), count(loaded) - count(held)
    if lost or extra:
        odd = sorted(set(held) - set(loaded)) or sorted(set(loaded) - set(held)) or sorted(held)
        raise ModelError(
            f"adapter {source!r} does not fit base model {name!r}: {lost.total()} of its {len(held)} tensors have no place there, and "
            f"{extra.total()} places stay without a tensor, e.g. {odd[0]}; it belongs to another model, or its modules have the "
            "names of another class or version of it"
        )


def _factors(source: str, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Factors and scales of each adapted module of a PEFT model."""
    factors: dict[str, Tensor] = {}
    scales: dict[str, float] = {}
    for name, module in causal_lm(model).named_modules():
        if not isinstance(module, peft.tuners.lora.LoraLayer):
            continue
        inner = module.get_base_layer()
        plain = module.lora_A and not module.lora_embedding_A and not hasattr(module, "parameter_name")
        if not plain or not (isinstance(inner, nn.Linear | Conv1D) or hasattr(inner, "in_features")):
            raise ModelError(
                f"adapter {source!r} cannot be taken: it changes {name}, which is no linear module (embeddings, convolutions and "
                "fused experts get no adapter here); merge it into its base model with PEFT and give the merged model as the base"
            )
        factors[f"{name}.lora_A"] = module.lora_A["default"].weight.detach().float().cpu().clone()
        factors[f"{name}.lora_B"] = module.lora_B["default"].weight.detach().float().cpu().clone()
        scales[name] = float(module.scaling["default"])
    if not scales:
        raise ModelError(
            f"adapter {source!r} changes no module of the base model; give the base model that it was trained on"
        )
    return factors, scales


def _settings(
    base: PreTrainedModel, config: Mapping[str, Any], factors: Mapping[str, Tensor], scales: Mapping[str, float]
) -> LoraConfig:
    """The settings of a memory that hold the adapter exactly: its largest rank, its scale, its modules."""
    rank = max(t.shape[0] for name, t in factors.items() if name.endswith(".lora_A"))
    leaves = sorted({module.rpartition(".")[2] for module in scales})
    alike = {
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.rpartition(".")[2] in leaves
    }
    named = leaves if alike == set(scales) else sorted(scales)
    return LoraConfig(
        r=rank, alpha=config["lora_alpha"], rslora=bool(config.get("use_rslora")), target_modules=tuple(named)
    )


def with_adapter(own: LoraConfig, imported: Imported) -> LoraConfig:
    """The memory's LoRA settings: those that are given, else the adapter's.

    Raises:
        ConfigError: a given setting has no room for the adapter.
    """
    given = {key: getattr(own, key) for key in own.model_fields_set}
    lora = imported.lora.model_copy(update=given)
    if lora.r < imported.rank:
        raise ConfigError(
            f"lora.r={lora.r}: the adapter {imported.source} has rank {imported.rank}; set lora.r={imported.rank} or more, or "
            "leave it out"
        )
    return lora


def in_our_form(
    imported: Imported, lora: LoraConfig, fresh: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The memory's weights before the adapter, and with it.

    Both have the adapter's A, and the former a B of zeros, so that the adapter's part is a change of B alone: at weight w
    it adds exactly w times its product. Where R > r, the other rows of A are those of `fresh`, and their columns of B are zero.

    Args:
        imported: the adapter.
        lora: settings of the memory, see `with_adapter`.
        fresh: a new adapter of the memory, whose B is zero.

    Raises:
        ConfigError: the memory has no adapter on a module that the imported one changes.
    """
    modules = {name.removesuffix(".lora_A") for name in fresh if name.endswith(".lora_A")}
    if lacking := sorted(set(imported.scales) - modules):
        raise ConfigError(
            f"adapter {imported.source} changes {lacking[0]} ({len(lacking)} such modules), which gets no adapter in this memory; "
            f"set lora.target_modules={json.dumps(list(imported.lora.target_modules))}, or merge the adapter into its base "
            "model with PEFT and give the merged model as the base"
        )
    before, after = dict(fresh), dict(fresh)
    for module, scale in imported.scales.items():
        a, b = f"{module}.lora_A", f"{module}.lora_B"
        rank = imported.factors[a].shape[0]
        wide_a, wide_b = fresh[a].clone(), torch.zeros_like(fresh[b])
        wide_a[:rank] = imported.factors[a]
        wide_b[:, :rank] = imported.factors[b] * (scale / lora.scale)
        before[a] = after[a] = wide_a
        after[b] = wide_b
    return before, after


def check_same_logits(imported: Imported, model: nn.Module) -> dict[str, float]:
    """Compare the model that holds the adapter in our form with stock PEFT's.

    Returns:
        Largest and mean absolute difference of a logit, and the mean change by the adapter.

    Raises:
        ModelError: they differ by more than rounding.
    """
    gap = (_logits(model, imported.tokens) - imported.logits).abs()
    learnt = float((imported.logits - imported.base).abs().mean())
    if not float(gap.mean()) <= max(NOISE, SHARE * learnt):  # also refuses NaN
        raise ModelError(
            f"adapter {imported.source!r} cannot be taken: with it, logits differ from those of stock PEFT by {float(gap.mean()):.2g} on "
            f"average, and the adapter changes them by {learnt:.2g}; merge it into its base model and give the merged model"
        )
    return {"largest": float(gap.max()), "mean": float(gap.mean()), "adapter_changes": learnt}


def template_notes(source: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A sentence if the adapter's folder has a chat template that the memory does not use."""
    folder = fetch_adapter(source)
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "chat_template.jinja")):
        return []
    try:
        with quiet():
            own = AutoTokenizer.from_pretrained(str(folder)).chat_template
    except Exception:
        return [f"the tokenizer in {source} cannot be read and is not used; the base model's is"]
    if own is None or own == tokenizer.chat_template:
        return []
    return [
        f"warning: {source} has a chat template of its own, which is not used; the base model's is "
        f"({'it has none' if tokenizer.chat_template is None else 'another one'}). To train with it, save the base model with that tokenizer"
    ]
