"""Ready2Blend (arXiv 2609.39365): requirements translated to soft prompts, kept in a bank and blended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from lifealign.core.errors import ConfigError
from lifealign.data.tasks import Task
from lifealign.model.batch import PairLogps, PreferenceBatch
from lifealign.model.soft_prompt import attach_prompts, first_virtual_id, prompt_tuning, vocabulary_rows
from lifealign.strategies.ready2blend import sentences
from lifealign.strategies.ready2blend.prompt_bank import PromptBank, Stored
from lifealign.strategies.ready2blend.translator import (
    Translator,
    pair_inconsistency,
    point_inconsistency,
    sentence_anchor,
)
from lifealign.training.losses import Losses, ObjectiveConfig
from lifealign.training.signs import Sign
from lifealign.training.strategy import History, Strategy

CURRENT = "current"
SEEN = 64
"""Rows of a task whose loss is measured at its end."""
SAMPLE = 256
"""Number of vocabulary tokens whose mean embedding size the first prompts get."""


class Ready2Blend(Strategy):
    """Freeze the model, and train a translator of a task's written requirement into K soft prompt tokens.

    Ready2Blend (arXiv 2609.39365). The translator reads the sentence embedding of the requirement. It alone is trained,
    by the preference objective (DPO in the paper) with the K tokens before each prompt. Two terms keep the geometry of
    the prompts equal to that of the sentences. The paper's text was not at hand, so their exact definitions are ours
    (see `ready2blend.translator`): `point` * (1 - cos(mean token of the prompt, frozen orthonormal image of its sentence
    embedding)), in each pair's loss; and `pair` * mean over the bank of the squared difference of cos(mean tokens) and
    cos(sentence embeddings), once per step. The blend is ours, too: a task of the bank gets its own prompt; otherwise
    each input gets the convex combination of the bank's prompts with weights softmax(cos(sentence embedding of the
    input, requirements) / temperature). With an empty bank there is no prompt: the base model.

    An untrained prompt is not the base model: its tokens are drawn at the size of the vocabulary's, and move margins by
    nats before anything is learnt (SmolLM2, 9 pairs: deviation 1.5). Other starts hardly help: sampled vocabulary 1.2,
    the first token of a text four times 2.3, four zero vectors 6.1, which take the place of the token that the layers
    attend to. The paper's text was not at hand, nor code that settles it.

    A task's prompt goes to the bank as it is at the task's end and never changes again; when a task is scored, its
    prompt is known. The reference `base` has no prompt. A task without a requirement uses its name instead. No adapter
    is trained: `lora` is not read. The latest prompt is exported, as PEFT prompt tuning.

    SFT stage: with the `pair` term alone.

    Kept: the translator as weights (0.4 to 0.6 million numbers at width 128), and K D + E numbers per task.

    Cost: 1, attention to K more tokens; the sentence encoder (22 million parameters) on each distinct input of an
    unknown task.
    """

    sums_updates: ClassVar[bool] = False

    class Config(ObjectiveConfig):
        """Objective, translator and blend."""

        own_terms = True

        tokens: int = Field(4, ge=1)
        """Virtual tokens K of a prompt. 1 <= tokens."""
        width: int = Field(128, ge=1)
        """Width of the translator's hidden states. 1 <= width."""
        point: float = Field(1e-4, ge=0)
        """Weight of the point-wise consistency of prompt and sentence. 0 <= point."""
        pair: float = Field(1e-5, ge=0)
        """Weight of the pair-wise consistency with the prompts of the bank. 0 <= pair."""
        temperature: float = Field(0.1, gt=0)
        """Temperature of the softmax over cosines that weighs the bank for an unknown task. 0 < temperature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._bank = PromptBank()
        self._current: Tensor | None = None  # the requirement of the task in training
        self._task: str | None = None  # whose prompt is used outside of training
        self._blends: dict[tuple[int, ...], Tensor] = {}  # by the input's ids, as long as bank and task stay

    @property
    def signs(self) -> tuple[Sign, ...]:
        """The task's rows have a smaller DPO loss than without a prompt, ln 2; other losses have another value there."""
        says = "with its prompt, the loss of a task's rows is below that without one, ln 2"
        return (Sign("end_loss", says, high=math.log(2)),) if self.objective.config.loss == "dpo" else ()

    def attach(self, base: PreTrainedModel) -> nn.Module:
        """The translator (`translator.*`); its output is behind the first virtual ids."""
        self._encode = sentences.load_encoder()
        c, some = self.config, vocabulary_rows(base, SAMPLE, self.seed)
        scale = float(some.square().mean().sqrt())
        self._translator = Translator(self._encode.width, c.width, c.tokens, some.shape[1], scale, self.seed)
        self._first_id = first_virtual_id(base)
        return attach_prompts(base, self._table, translator=self._translator)

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """Read the requirement."""
        self._current = self._encode([task.requirement_text])[0]

    def prefix(self, prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """Ids of the prompt in training, or of the selected task's, or of one blend for each input."""
        names = list(self._bank.tasks)
        if self._current is not None:
            return [self._ids(0)] * len(prompts)
        if self._task in names:
            return [self._ids(1 + names.index(self._task))] * len(prompts)
        if not names:
            return [()] * len(prompts)
        for ids in map(tuple, prompts):
            if ids not in self._blends:
                sentence = self._encode(self.view.texts([ids]))[0]
                self._blends[ids] = self._bank.blend(sentence, self.config.temperature)
        place = {ids: 1 + len(names) + i for i, ids in enumerate(self._blends)}
        return [self._ids(place[tuple(ids)]) for ids in prompts]

    def loss(self, batch: PreferenceBatch, policy: PairLogps, reference: PairLogps, objective: Losses) -> Tensor:
        """The objective plus the point-wise consistency of the prompt in training."""
        prompt, sentence = self._in_training()
        anchor = sentence_anchor(sentence.cpu(), prompt.shape[1], self.seed).to(prompt.device)
        return objective.loss + float(self.config.point) * point_inconsistency(prompt, anchor)

    def penalty(self, model: nn.Module) -> Tensor:
        """The pair-wise consistency with the bank; zero without one."""
        if not self._bank.tasks:
            return torch.zeros(())
        prompt, sentence = self._in_training()
        past = (self._bank.prompts().to(prompt.device), self._bank.requirements().to(prompt.device))
        return float(self.config.pair) * pair_inconsistency(prompt, sentence, *past)

    @torch.no_grad()
    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Put the prompt into the bank; the diagnostics hold the rows' loss and cosines to the earlier tasks."""
        loss = float(self.view.loss_on(self.view.usable(task.train)[:SEEN]))
        new = Stored(*(t.cpu() for t in self._in_training()))
        likeness = self._bank.likeness(new)
        self._bank.tasks[task.name] = new
        self._current = None
        return {"requirement": task.requirement_text, "likeness": likeness, "end_loss": loss}

    def state_dict(self) -> dict[str, Tensor]:
        """The bank, and the requirement of the task in training: everything that determines the policy."""
        return self._bank.to_tensors() | ({} if self._current is None else {CURRENT: self._current})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`; a task in training stays current, so that earlier states can be read for it."""
        self._current = state.get(CURRENT, self._current)
        self._bank = PromptBank.from_tensors({name: t for name, t in state.items() if name != CURRENT})
        self._blends = {}

    def select(self, model: nn.Module, task: str | None) -> None:
        """Use this task's prompt, or blends if it is not in the bank."""
        self._task, self._current, self._blends = task, None, {}

    def to_peft(self, model: nn.Module) -> nn.Module:
        """The latest task's prompt as PEFT prompt tuning, which puts its tokens before BOS, as is done here."""
        if not self._bank.tasks:
            raise ConfigError("strategy ready2blend has no prompt to export before a task is learnt")
        return prompt_tuning(cast(PreTrainedModel, model), self._bank.prompts()[-1], "translator")

    def _in_training(self) -> tuple[Tensor, Tensor]:
        """Prompt [K, D] with a graph, and sentence embedding [E], of the task in training."""
        assert self._current is not None
        prompt = self._translator(self._current)
        return prompt, self._current.to(prompt.device)

    def _ids(self, place: int) -> tuple[int, ...]:
        """Ids of the prompt in training (0), the bank (from 1), the blends (after); unique, for the log-prob cache."""
        first = self._first_id + place * self.config.tokens
        return tuple(range(first, first + self.config.tokens))

    def _table(self) -> Tensor:
        """Rows of the virtual ids."""
        if self._current is not None:
            return self._in_training()[0]
        unused = torch.zeros(self._translator.shape)
        return torch.cat([unused, *(s.prompt for s in self._bank.tasks.values()), *self._blends.values()])
