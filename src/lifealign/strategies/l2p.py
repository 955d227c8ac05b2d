"""Learning to Prompt (L2P; Wang et al. 2022, arXiv 2112.08654), for preference pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from lifealign.core.errors import ConfigError
from lifealign.data.tasks import Task
from lifealign.model.batch import PairLogps, PreferenceBatch
from lifealign.model.soft_prompt import attach_prompts, first_virtual_id, split_prefix, vocabulary_rows
from lifealign.training.losses import Losses, ObjectiveConfig
from lifealign.training.signs import Sign
from lifealign.training.strategy import History, Strategy

MEAN, SCALE, CHOSEN = "query/mean", "query/scale", "chosen"
ALIKE = 0.8
"""Largest share of a task's prompts that should choose the same set. Raw queries on SmolLM2: 1; centred ones: below .3."""
FLAT = 0.01
"""A feature's scale is at least this share of the mean one, so that one that hardly varies is not blown up."""


def select_prompts(query_BD: Tensor, keys_PD: Tensor, top_k: int) -> Tensor:
    """Indices [B, top_k] of the keys with the highest cosine to each query, the highest first (L2P, eq. 3)."""
    similarity_BP = F.normalize(query_BD, dim=-1) @ F.normalize(keys_PD, dim=-1).T
    return similarity_BP.topk(top_k, dim=-1).indices


def query_space(features_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale [D] of features; the scale is the standard deviation of each, at least `FLAT` of the mean one, or 1."""
    deviation_D = features_ND.std(0, correction=0)
    scale_D = deviation_D.clamp(min=FLAT * float(deviation_D.mean()))
    return features_ND.mean(0), torch.where(scale_D > 0, scale_D, torch.ones_like(scale_D))


def key_pull(query_BD: Tensor, selected_BKD: Tensor) -> Tensor:
    """Sum over its selected keys of cos(query, key), [B], in [-K, K]; the gradient goes into the keys (L2P, eq. 5)."""
    return F.cosine_similarity(query_BD[:, None], selected_BKD, dim=-1).sum(-1)


class L2P(Strategy):
    """Freeze the model, and train a pool of prompts from which each input chooses by its own features.

    Learning to Prompt (L2P; Wang et al. 2022, arXiv 2112.08654). The query of a prompt is the mean of the frozen
    model's last hidden states over it, centred and scaled; the `top_k` keys nearest to it select the prompts placed
    before it, nearest first. Loss of a pair: L_pref - key_pull * sum cos(query, selected keys).

    Adapted: the classifier's loss became the preference objective, the class token the mean of hidden states, and each
    pair chooses for itself (the original takes a vote over the batch). Such means all point one way (cosine .97 on
    SmolLM2), so that raw ones choose the same prompts whatever the input (1 to 4 sets over 144 prompts, now 65 to 88): each feature is centred and scaled by its
    mean and deviation over the prompts of the first task, for life, and the keys start from a normal distribution,
    which is of that scale. Nothing balances how often the pool's members are chosen, as in the original where tasks
    come without a frequency penalty. The reference policy `base` runs without prompts, and nothing is cut off at
    evaluation. The prompts start from sampled vocabulary (float32, whatever the model's type). Before any training the
    policy is therefore not the base model. No adapter is trained: the `lora` settings are not read. A memory whose
    first task was learnt before queries were centred goes on with raw ones.

    SFT stage: trains the prompts alone, not the keys.

    Kept: pool (length + 1) D numbers, as weights; 2 D of the queries, and how often each prompt was chosen.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._space: tuple[Tensor, Tensor] | None = None  # mean and scale of queries; None: raw ones
        self._chosen = torch.zeros(self.config.pool, dtype=torch.long)  # rows of all tasks that chose each prompt

    @property
    def signs(self) -> tuple[Sign, ...]:
        """More of the pool is in use than one prompt takes, if the pool has more."""
        if self.config.pool == self.config.top_k:
            return ()
        says = "the prompts so far choose more entries of the pool than one prompt does"
        alike = "the prompts of a task do not all choose the same"
        return (Sign("pool_entries_used", says, low=self.config.top_k + 1), Sign("same_choice", alike, high=ALIKE))

    def attach(self, base: PreTrainedModel) -> nn.Module:
        """Prompts behind virtual ids (`<embedding>.table` [pool length, D]) and their keys (`prompt_keys` [pool, D])."""
        c = self.config
        prompts = vocabulary_rows(base, c.pool * c.length, self.seed)
        generator = torch.Generator().manual_seed(self.seed + 1)
        self._keys = nn.Parameter(torch.randn(c.pool, prompts.shape[1], generator=generator))
        self._raw: dict[tuple[int, ...], Tensor] = {}
        self._first_id = first_virtual_id(base)
        return attach_prompts(base, nn.Parameter(prompts), prompt_keys=self._keys)

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """Fix the space of the queries at the first task."""
        if not history.tasks and (prompts := self.view.prompts(task.train)):
            self._space = query_space(torch.stack([self._features(ids) for ids in prompts]))

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

    @torch.no_grad()
    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Count the rows that choose each prompt; the diagnostics tell how many are in use, and how alike queries are."""
        query_ND = F.normalize(self._query(self.view.prompts(task.train)), dim=-1)
        chosen_NK = select_prompts(query_ND, self._keys, self.config.top_k)
        counts = torch.bincount(chosen_NK.flatten().cpu(), minlength=self.config.pool)
        self._chosen = self._chosen + counts
        n = len(query_ND)
        sets = Counter(tuple(sorted(row)) for row in chosen_NK.tolist())
        cosines = float((query_ND @ query_ND.T).sum() - n) / (n * (n - 1)) if n > 1 else None
        return {
            "pool_entries_used": int((self._chosen > 0).sum()),
            "same_choice": max(sets.values()) / n if n > 2 else None,
            "chosen": {str(i): int(count) for i, count in enumerate(counts) if count},
            "query_cosine": cosines,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The space of the queries, and how often each prompt was chosen; nothing before the first task."""
        space = {} if self._space is None else dict(zip((MEAN, SCALE), self._space, strict=True))
        return space | ({CHOSEN: self._chosen} if bool(self._chosen.any()) else {})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`; memories from before there was a state have raw queries."""
        self._space = (state[MEAN], state[SCALE]) if MEAN in state else None
        self._chosen = state.get(CHOSEN, torch.zeros(self.config.pool, dtype=torch.long))

    def to_peft(self, model: nn.Module) -> nn.Module:
        """Refused: PEFT has no such form."""
        raise ConfigError(
            "strategy l2p cannot be exported: its prompts depend on the input, which no PEFT method supports; "
            "answer with `lifealign generate`, or train with a strategy that keeps one adapter"
        )

    def _query(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Queries [B, D] on the keys' device."""
        features_BD = torch.stack([self._features(ids) for ids in prompts])
        if self._space is not None:
            mean_D, scale_D = self._space
            features_BD = (features_BD - mean_D) / scale_D
        return features_BD.to(self._keys.device)

    def _features(self, prompt: Sequence[int]) -> Tensor:
        """Features [D] on the CPU, cached; of one prompt at a time, so that they do not depend on its neighbours."""
        ids = tuple(prompt)
        if ids not in self._raw:
            self._raw[ids] = self.view.features([ids])[0]
        return self._raw[ids]
