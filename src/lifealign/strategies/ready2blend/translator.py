"""Translate the embedding of a written requirement to a soft prompt, and keep both geometries equal (Ready2Blend).

Shapes: E width of a sentence embedding, K tokens of a prompt, D width of the language model, H width of the translator,
N earlier prompts. A prompt's place in a geometry is the mean of its K tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEMORY = 8
"""Memory slots that a sentence embedding is unfolded into; attention over one vector would have no choice."""


class Translator(nn.Module):
    """Cross-attention from K learnt queries to the memory slots of a sentence embedding, then a linear map to D.

    slots = W_m e, [MEMORY, H]; h = q + softmax(q (slots W_k)^T / sqrt(H)) slots W_v; prompt = scale * LayerNorm(h + mlp(h)) W_o.

    Args:
        sentence: E.
        width: H.
        tokens: K.
        out: D.
        scale: root mean square of the prompt's entries at the start; that of the model's embeddings fits.
        seed: of the initial weights.
    """

    def __init__(self, sentence: int, width: int, tokens: int, out: int, scale: float, seed: int) -> None:
        super().__init__()
        self.shape = (tokens, out)
        self._gain = math.sqrt(sentence)  # entries of a unit vector to entries of size 1
        self._scale = scale
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.query = nn.Parameter(torch.randn(tokens, width))
            self.memory = nn.Linear(sentence, MEMORY * width)
            self.key = nn.Linear(width, width, bias=False)
            self.value = nn.Linear(width, width, bias=False)
            self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            self.norm = nn.LayerNorm(width)
            self.out = nn.Linear(width, out, bias=False)
            nn.init.normal_(self.out.weight, std=1 / math.sqrt(width))

    def forward(self, sentence_E: Tensor) -> Tensor:
        """The prompt [K, D] of a sentence embedding [E], float32, with a graph."""
        width = self.query.shape[1]
        slots = self.memory(sentence_E.to(self.query.device) * self._gain).view(MEMORY, width)
        attention = torch.softmax(self.query @ self.key(slots).T / math.sqrt(width), -1)
        hidden = self.query + attention @ self.value(slots)
        prompt: Tensor = self._scale * self.out(self.norm(hidden + self.mlp(hidden)))
        return prompt


def sentence_anchor(sentence_E: Tensor, width: int, seed: int) -> Tensor:
    """A sentence embedding in the language model's space: a frozen random orthonormal map [D, E] times it, [D].

    For D >= E it keeps all cosines between sentences exactly; for D < E (orthonormal rows) approximately.
    """
    generator = torch.Generator().manual_seed(seed)
    tall = torch.randn(max(width, len(sentence_E)), min(width, len(sentence_E)), generator=generator)
    q, _ = torch.linalg.qr(tall)
    anchor_D: Tensor = (q if width >= len(sentence_E) else q.T) @ sentence_E
    return anchor_D


def point_inconsistency(prompt_KD: Tensor, anchor_D: Tensor) -> Tensor:
    """1 - cos(mean token, anchor), a scalar in [0, 2]."""
    return 1 - F.cosine_similarity(prompt_KD.mean(0), anchor_D, dim=0)


def pair_inconsistency(prompt_KD: Tensor, sentence_E: Tensor, prompts_NKD: Tensor, sentences_NE: Tensor) -> Tensor:
    """Mean over N earlier tasks of (cos of mean tokens - cos of sentences)^2, a scalar in [0, 4]."""
    prompts_N = F.cosine_similarity(prompt_KD.mean(0)[None], prompts_NKD.mean(1), dim=-1)
    sentences_N = F.cosine_similarity(sentence_E[None], sentences_NE, dim=-1)
    return (prompts_N - sentences_N).square().mean()
