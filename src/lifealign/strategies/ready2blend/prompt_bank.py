"""Soft prompts of the tasks learnt so far, and their convex blends (Ready2Blend).

Shapes: N prompts in the bank, K tokens of a prompt, D model width, E width of a sentence embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Stored(NamedTuple):
    """One task of the bank, float32, on the CPU.

    Attributes:
        prompt: [K, D], as the model gets it.
        requirement: sentence embedding of what the task asks for, [E], length 1.
    """

    prompt: Tensor
    requirement: Tensor


def blend_weights(likeness_N: Tensor, temperature: float) -> Tensor:
    """Convex weights [N] of the bank's prompts: softmax(likeness / temperature). 0 < temperature."""
    return torch.softmax(likeness_N / temperature, -1)


@dataclass
class PromptBank:
    """Prompts by task, in the order in which the tasks were learnt."""

    tasks: dict[str, Stored] = field(default_factory=dict)

    def prompts(self) -> Tensor:
        """[N, K, D]; N >= 1."""
        return torch.stack([s.prompt for s in self.tasks.values()])

    def requirements(self) -> Tensor:
        """[N, E]; N >= 1."""
        return torch.stack([s.requirement for s in self.tasks.values()])

    def blend(self, sentence_E: Tensor, temperature: float) -> Tensor:
        """The bank's prompts weighted by the likeness (cosine) of their requirements to a sentence embedding, [K, D]."""
        weights_N = blend_weights(self.requirements() @ sentence_E, temperature)
        return torch.einsum("n,nkd->kd", weights_N, self.prompts())

    def likeness(self, new: Stored) -> dict[str, dict[str, float]]:
        """Cosines of a new entry to the stored ones, by task: of the requirements, and of the prompts' mean tokens."""
        return {
            task: {
                "requirement": float(torch.cosine_similarity(new.requirement, old.requirement, dim=0)),
                "prompt": float(torch.cosine_similarity(new.prompt.mean(0), old.prompt.mean(0), dim=0)),
            }
            for task, old in self.tasks.items()
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """`<number>/<task>/prompt` and `<number>/<task>/requirement`."""
        return dict(self._named())

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> PromptBank:
        """The inverse of `to_tensors`."""
        keys = sorted({name.rpartition("/")[0] for name in tensors})
        parts = ((key, (tensors[f"{key}/{part}"] for part in Stored._fields)) for key in keys)
        return cls({key.partition("/")[2]: Stored(*tensors_of) for key, tensors_of in parts})

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for number, (task, stored) in enumerate(self.tasks.items(), 1):
            for part, tensor in stored._asdict().items():
                yield f"{number:04d}/{task}/{part}", tensor
