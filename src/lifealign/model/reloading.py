"""An exported model is loaded again by stock libraries and compared with the one it was made from."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lifealign.core.errors import ModelError
from lifealign.model.adapters import adapter_off, causal_lm
from lifealign.model.wheels import quiet

NOISE = 1e-4
"""Mean difference of logits that is rounding, whatever was learnt: float32 sums in another order differ by less."""
LOST, LOST_ROUNDED = 0.02, 0.5
"""Share of the learnt change that a difference must stay below: in float32, and where numbers are rounded to 16 bits."""


@dataclass(frozen=True)
class Difference:
    """Logits of an export beside those of the memory, on the same tokens.

    Attributes:
        texts: number of texts compared.
        tokens: number of positions.
        largest: largest absolute difference of a logit from the memory's.
        mean: mean absolute difference.
        learnt_largest: largest absolute difference of the memory's logits from the base model's.
        learnt_mean: mean absolute difference from the base model's; 0 where nothing is learnt.
        same_first: share of positions with the same most likely token. 0 to 1.
    """

    texts: int
    tokens: int
    largest: float
    mean: float
    learnt_largest: float
    learnt_mean: float
    same_first: float

    def line(self) -> str:
        """One sentence for people."""
        learnt = f"learning changed them by {self.learnt_mean:.2g}" if self.learnt_mean else "nothing was learnt"
        return (
            f"loaded again and compared on {self.tokens} tokens of {self.texts} text{'s' * (self.texts > 1)}: logits differ from the memory's "
            f"by {self.mean:.2g} on average and {self.largest:.2g} at most ({learnt}); "
            f"{100 * self.same_first:.1f}% of the most likely tokens are the same"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Answers:
    """Logits of a model before it is exported.

    Attributes:
        texts: token ids of each text.
        ours: logits [T, V] of the memory's model for each text, float32 on the CPU.
        base: those of the base model alone.
    """

    texts: Sequence[Sequence[int]]
    ours: Sequence[Tensor]
    base: Sequence[Tensor]

    def compared(self, found: Sequence[Tensor]) -> Difference:
        """The difference between the memory's logits and those of an export."""
        gaps = [(a - b).abs() for a, b in zip(found, self.ours, strict=True)]
        learnt = [(a - b).abs() for a, b in zip(self.ours, self.base, strict=True)]
        same = [(a.argmax(-1) == b.argmax(-1)).double() for a, b in zip(found, self.ours, strict=True)]
        return Difference(
            len(self.texts),
            sum(len(text) for text in self.texts),
            max(float(g.max()) for g in gaps),
            float(torch.cat([g.mean(-1) for g in gaps]).mean()),
            max(float(c.max()) for c in learnt),
            float(torch.cat([c.mean(-1) for c in learnt]).mean()),
            float(torch.cat(same).mean()),
        )


@torch.no_grad()
def logits(model: nn.Module, texts: Sequence[Sequence[int]], prefixes: Sequence[Sequence[int]] = ()) -> list[Tensor]:
    """Logits [T, V] of each text's own tokens, float32 on the CPU.

    Args:
        model: in any form that takes token ids.
        texts: token ids.
        prefixes: virtual ids before each text; empty: none. A PEFT prompt brings its own.
    """
    model.eval()
    device = next(model.parameters()).device
    found = []
    for i, text in enumerate(texts):
        before = prefixes[i] if prefixes else ()
        ids = torch.tensor([[*before, *text]], device=device)
        out: Any = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        found.append(out.logits[0, -len(text) :].float().cpu())
    return found


def answers(model: nn.Module, texts: Sequence[Sequence[int]], prefixes: Sequence[Sequence[int]] = ()) -> Answers:
    """Logits with the adapter as it is, and without it."""
    ours = logits(model, texts, prefixes)
    with adapter_off(model):
        base = logits(model, texts)
    return Answers(texts, ours, base)


def release(model: nn.Module) -> None:
    """Give up a model's weights, whoever still refers to it, so that a second one fits in the memory."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def checksum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def adapter_checksums(model: nn.Module) -> dict[str, str]:
    """Name of each tensor of a PEFT adapter, as it is written -> its checksum."""
    return {name: checksum(tensor) for name, tensor in peft.get_peft_model_state_dict(model).items()}


def adapted_modules(model: nn.Module) -> list[str]:
    """Names, without PEFT's own parts, of the modules that an adapter changes; sorted."""
    own = causal_lm(model)
    return sorted(name for name, module in own.named_modules() if hasattr(module, "lora_A") and module.lora_A)


def weight_checksums(model: nn.Module, modules: Sequence[str]) -> dict[str, str]:
    """Module -> checksum of its weight; a module that is missing is left out."""
    named = dict(model.named_modules())
    return {name: checksum(named[name].weight) for name in modules if name in named}


def load_adapter(directory: Path, base: str, revision: str | None, dtype: torch.dtype, device: torch.device) -> Any:
    """A written PEFT adapter on its base model, loaded by stock PEFT."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a key that is missing is found by its checksum
        model = AutoModelForCausalLM.from_pretrained(base, revision=revision, dtype=dtype)
        return peft.PeftModel.from_pretrained(model, str(directory)).to(device).eval()


def load_model(directory: Path, device: torch.device) -> Any:
    """A written model, loaded by stock transformers.

    Raises:
        ModelError: a weight is missing, has no place, or has another shape.
    """
    with quiet():
        model, info = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    if odd := sorted(str(name) for names in info.values() for name in names):
        raise ModelError(f"{directory}: loaded again, {len(odd)} weights do not fit the model, e.g. {odd[0]}")
    return model.to(device).eval()


def check_modules(out: Path, trained: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse an export that lacks a trained tensor or holds other values.

    Args:
        out: the export, for the message.
        trained: name -> checksum, of the memory.
        found: the same, of the export after it was loaded again.

    Raises:
        ModelError: names the first one.
    """
    if missing := sorted(set(trained) - set(found)):
        raise ModelError(
            f"{out}: not written: loaded again, {len(missing)} of {len(trained)} trained parts are missing, "
            f"e.g. {missing[0]}"
        )
    if other := sorted(name for name, value in trained.items() if found[name] != value):
        raise ModelError(
            f"{out}: not written: loaded again, {len(other)} of {len(trained)} trained parts have other values, "
            f"e.g. {other[0]}"
        )


def check_difference(out: Path, difference: Difference, rounded: bool = False) -> None:
    """Refuse an export that does not answer with what was learnt.

    Args:
        out: the export, for the message.
        difference: of its logits from the memory's.
        rounded: its weights are rounded to 16 bits.

    Raises:
        ModelError: a share of the learnt change is lost.
    """
    if not difference.learnt_mean:
        return
    hint = "; export with --gguf-type f32" if rounded else ""
    share = LOST_ROUNDED if rounded else LOST
    if not difference.mean <= max(NOISE, share * difference.learnt_mean):  # also refuses NaN
        raise ModelError(
            f"{out}: not written: loaded again, its logits differ from the memory's by {difference.mean:.2g} on average, "
            f"and learning changed them by {difference.learnt_mean:.2g}: the learnt change is lost{hint}"
        )
