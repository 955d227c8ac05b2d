"""Learning to Prompt (L2P; Wang et al. 2022, arXiv 2112.08654), for preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from lifealign.core.errors import ConfigError
from lifealign.model.batch import PairLogps, PreferenceBatch
from lifealign.model.soft_prompt import attach_prompts, first_virtual_id, split_prefix, vocabulary_rows
from lifealign.training.losses import Losses, ObjectiveConfig
from lifealign.training.strategy import Strategy


def select_prompts(query_BD: Tensor, keys_PD: Tensor, top_k: int) -> Tensor:
    """Indices [B, top_k] of the keys with the highest cosine to each query, the highest first (L2P, eq. 3)."""
    similarity_BP = F.normalize(query_BD, dim=-1) @ F.normalize(keys_PD, dim=-1).T
    return similarity_BP.topk(top_k, dim=-1).indices


def key_pull(query_BD: Tensor, selected_BKD: Tensor) -> Tensor:
    """Sum over its selected keys of cos(query, key), [B], in [-K, K]; the gradient goes into the keys (L2P, eq. 5)."""
    return F.cosine_similarity(query_BD[:, None], selected_BKD, dim=-1).sum(-1)


class L2P(Strategy):
    """Freeze the model, and train a pool of prompts from which each input chooses by its own features.

    Learning to Prompt (L2P; Wang et al. 2022, arXiv 2112.08654). The query of a prompt is the mean of the frozen
    model's last hidden states over it; the `top_k` keys nearest to it select the prompts placed before it, nearest
    first. Loss of a pair: L_pref - key_pull * sum cos(query, selected keys).

    Adapted: the classifier's loss became the preference objective, the class token the mean of hidden states, and each
    pair chooses for itself (the original takes a vote over the batch). Nothing balances how often the pool's members
    are chosen, as in the original where tasks come without a frequency penalty. The reference policy `base` runs
    without prompts, and nothing is cut off at evaluation. The prompts start from sampled vocabulary (float32, whatever
    the model's type), the keys from a normal distribution. Before any training the policy is therefore not the base
    model. No adapter is trained: the `lora` settings are not read.

    SFT stage: trains the prompts alone, not the keys.

    Kept: pool (length + 1) D numbers, as weights.

    Cost: 1, attention to top_k length more tokens, and one forward of each distinct prompt for its query (cached while
    the process lives).
    """

    sums_updates: ClassVar[bool] = False

    class Config(ObjectiveConfig):
        """Objective and pool."""

        own_terms = True

        pool: int = Field(10, ge=1)
        """Prompts in the pool. 1 <= pool."""
        length: int = Field(5, ge=1)
        """Virtual tokens of one prompt. 1 <= length."""
        top_k: int = Field(4, ge=1)
        """Prompts of the pool placed before each input. 1 <= top_k <= pool."""
        key_pull: float = Field(0.5, ge=0)
        """Weight of the cosine between a query and the keys it selected. 0 <= key_pull."""

        @model_validator(mode="after")
        def _refuse_more_than_there_are(self) -> L2P.Config:
            if self.top_k > self.pool:
                raise ValueError(f"top_k must be at most pool ({self.pool}), got {self.top_k}")
            return self

    def attach(self, base: PreTrainedModel) -> nn.Module:
        """Prompts behind virtual ids (`<embedding>.table` [pool length, D]) and their keys (`prompt_keys` [pool, D])."""
        c = self.config
        prompts = vocabulary_rows(base, c.pool * c.length, self.seed)
        generator = torch.Generator().manual_seed(self.seed + 1)
        self._keys = nn.Parameter(torch.randn(c.pool, prompts.shape[1], generator=generator))
        self._queries: dict[tuple[int, ...], Tensor] = {}
        self._first_id = first_virtual_id(base)
        return attach_prompts(base, nn.Parameter(prompts), prompt_keys=self._keys)

    @torch.no_grad()
    def prefix(self, prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """The virtual ids of the prompts that each input chooses."""
        if not prompts:
            return []
        length = self.config.length
        chosen_BK = select_prompts(self._query(prompts), self._keys, self.config.top_k)
        return [
            tuple(self._first_id + i * length + j for i in chosen for j in range(length))
            for chosen in chosen_BK.tolist()
        ]

    def loss(self, batch: PreferenceBatch, policy: PairLogps, reference: PairLogps, objective: Losses) -> Tensor:
        """The objective minus the pull of the keys to the queries that chose them."""
        split = [split_prefix(ids, self._first_id) for ids in batch.prompts]
        rows = torch.tensor([prefix for prefix, _ in split])
        chosen_BK = rows[:, :: self.config.length] // self.config.length
        pull_B = key_pull(self._query([prompt for _, prompt in split]), self._keys[chosen_BK])
        return objective.loss - float(self.config.key_pull) * pull_B

    def to_peft(self, model: nn.Module) -> nn.Module:
        """Refused: PEFT has no such form."""
        raise ConfigError(
            "strategy l2p cannot be exported: its prompts depend on the input, which no PEFT method supports; "
            "answer with `lifealign generate`, or train with a strategy that keeps one adapter"
        )

    def _query(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Features [B, D] on the keys' device; one prompt at a time, so that they do not depend on its neighbours."""
        ids = [tuple(p) for p in prompts]
        for key in ids:
            if key not in self._queries:
                self._queries[key] = self.view.features([key])[0]
        return torch.stack([self._queries[key] for key in ids]).to(self._keys.device)
