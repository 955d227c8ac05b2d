"""SD-LoRA (Wu et al. 2025, arXiv 2501.13198): directions of earlier tasks are frozen, all magnitudes are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lifealign.data.tasks import Task
from lifealign.model.adapters import PAST, snapshot
from lifealign.strategies._growing import Growing
from lifealign.training.signs import Sign
from lifealign.training.strategy import History

TINY = 1e-12
"""Norm below which a product counts as zero, and has no direction."""


def direction(b_OR: Tensor, a_RI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """B / ||B||_F, A / ||A||_F and the magnitude ||A||_F ||B||_F that goes with them; a zero factor stays zero."""
    norm_b, norm_a = torch.linalg.matrix_norm(b_OR), torch.linalg.matrix_norm(a_RI)
    return b_OR / norm_b.clamp(min=TINY), a_RI / norm_a.clamp(min=TINY), norm_b * norm_a


class SDLora(Growing):
    """Freeze the directions of earlier tasks, and train the magnitudes of all.

    SD-LoRA (Wu et al. 2025, arXiv 2501.13198): h = W0 x + (alpha/r) (sum_{k<t} a_k B_k A_k x / (||A_k||_F ||B_k||_F) +
    a_t B_t A_t x), with one a per task and module.

    Adapted: the paper trains image classifiers; here it is the preference loss. A direction starts a new task at the
    magnitude a_t ||A_t|| ||B_t|| with which it ended the last one, so that freezing it does not change the policy;
    a_t of a new task starts at 1, where B_t = 0. The magnitudes [t] are trained parameters of the adapted modules, and
    so part of the stored adapter.

    SFT stage: the same adapter, with the SFT loss.

    Kept: the adapters of all tasks, t n.

    Cost: 1 + t r columns more in each adapted module.
    """

    signs: ClassVar[tuple[Sign, ...]] = (
        Sign("magnitude_change", "the magnitudes of earlier tasks are trained (median relative change)", low=1e-4),
    )

    def attach(self, base: PreTrainedModel) -> nn.Module:
        """The adapter, with one magnitude to start with."""
        model = super().attach(base)
        for _, layer in _layers(model):
            layer.register_parameter("magnitudes", nn.Parameter(torch.ones(1)))
            layer.lora_A["default"].register_forward_hook(self._scale(layer, slice(-1, None)))
        return model

    def mount(self, model: nn.Module) -> None:
        """Put the directions beside the adapter, and as many magnitudes as there are tasks."""
        super().mount(model)
        for name, layer in _layers(model):
            past = self._past.get(f"{name}.lora_A")
            count = 1 if past is None else len(past) // self.lora.r + 1
            if len(layer.magnitudes) != count:
                layer.magnitudes = nn.Parameter(torch.ones(count, device=layer.magnitudes.device))
            if past is not None:
                layer.lora_A[PAST].register_forward_hook(self._scale(layer, slice(None, -1)))

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Report the magnitudes of all tasks, the current one on the same scale, and how far the earlier ones moved; change nothing."""
        own = snapshot(model)
        magnitudes = []
        began = self._fresh(model, history) if history.tasks else {}
        moved: list[Tensor] = []
        for name in (n.removesuffix(".magnitudes") for n in own if n.endswith(".magnitudes")):
            new = direction(own[f"{name}.lora_B"], own[f"{name}.lora_A"])[2]
            past, last = own[f"{name}.magnitudes"][:-1], own[f"{name}.magnitudes"][-1:]
            magnitudes.append(torch.cat([past, last * new]).abs())
            if began:
                before = began[f"{name}.magnitudes"][:-1]
                moved.append(((past - before) / before.abs().clamp(min=TINY)).abs())
        change = float(torch.cat(moved).median()) if moved else None
        return {"magnitudes": torch.stack(magnitudes).mean(0).tolist(), "magnitude_change": change}

    def to_peft(self, model: nn.Module) -> nn.Module:
        """One adapter of rank t r, the magnitudes multiplied into its A."""
        with torch.no_grad():
            for _, layer in _layers(model):
                for adapter, part in (("default", slice(-1, None)), (PAST, slice(None, -1))):
                    if adapter in layer.lora_A:
                        layer.lora_A[adapter].weight *= self._per_rank(layer, part)[:, None]
                ones = torch.ones_like(layer.magnitudes)
                del layer.magnitudes  # a parameter would be written into the adapter, where stock PEFT does not know it
                layer.magnitudes = ones
        return super().to_peft(model)

    def _finished(self, history: History) -> Mapping[str, Tensor]:
        """The direction of HEAD's adapter."""
        head, factors = history.adapter(), {}
        for name in (n.removesuffix(".lora_A") for n in head if n.endswith(".lora_A")):
            factors[f"{name}.lora_B"], factors[f"{name}.lora_A"], _ = direction(
                head[f"{name}.lora_B"], head[f"{name}.lora_A"]
            )
        return factors

    def _fresh(self, model: nn.Module, history: History) -> dict[str, Tensor]:
        """A new adapter; the magnitudes carry on."""
        head, fresh = history.adapter(), super()._fresh(model, history)
        for name in (n.removesuffix(".magnitudes") for n in head if n.endswith(".magnitudes")):
            ended = head[f"{name}.magnitudes"]
            size = direction(head[f"{name}.lora_B"], head[f"{name}.lora_A"])[2]
            fresh[f"{name}.magnitudes"] = torch.cat([ended[:-1], ended[-1:] * size, torch.ones(1)])
        return fresh

    def _scale(self, layer: Any, part: slice) -> Any:
        """A hook that multiplies the output of an A, [..., K], by the magnitudes of its tasks."""
        return lambda module, inputs, output: output * self._per_rank(layer, part)

    def _per_rank(self, layer: Any, part: slice) -> Tensor:
        magnitudes: Tensor = layer.magnitudes[part]
        return magnitudes.repeat_interleave(self.lora.r)


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The adapted modules by name."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            yield name.removeprefix("base_model.model."), module
