"""Answers and scores of a loaded memory: of the model as it is, or with each prompt routed to its tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lifealign.core.progress import Progress, say_once
from lifealign.data.suites.rules import Rule
from lifealign.data.tasks import Message, Row, turns_of
from lifealign.memory.routing import Routes, calibration_line
from lifealign.memory.row_scores import AnswerScorer, TaskScores, answer_rows, score_rows
from lifealign.model.adapters import holding
from lifealign.model.base import BaseModel
from lifealign.model.decoding import Decoder, decode
from lifealign.model.encoding import EncodedPair, Encoder
from lifealign.model.generate import generate
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.strategies import Strategy
from lifealign.training.feedback import FeedbackConfig, reference_point, with_others
from lifealign.training.model_view import LoadedView


class Policy:
    """The part of a `Session` that answers and scores; it trains nothing.

    Attributes:
        progress: where to report.
        said: warnings reported so far.
        base: the base model.
        model: with the adapter.
        encoder: template and tokenizer.
        strategy: of the memory.
        view: computations with the model.
        reward_beta: reward per nat, of margins.
        rest: weights of the sleep, which answer what is not routed; empty: those that the model holds do.
    """

    progress: Progress
    said: set[str]
    base: BaseModel
    model: nn.Module
    encoder: Encoder
    strategy: Strategy
    view: LoadedView
    reward_beta: float
    rest: Mapping[str, Tensor]
    _data: dict[str, Mapping[str, Any]]
    _routed: tuple[MemoryReader, TaskManifest] | None
    _routes: tuple[tuple[Path, str], Routes] | None

    def warn(self, lines: Sequence[str]) -> None:
        """Report warnings, each once in the session's life; also where no progress is reported."""
        say_once(self.said, lines, self.progress)

    @property
    def routes(self) -> Routes | None:
        """The routes of the commit that is loaded, if its prompts are routed; says once how sure they are.

        Raises:
            ConfigError, StoreError: see `routing.Routes`.
        """
        if self._routed is None:
            return None
        store, task = self._routed
        key = (store.path, task.sha256)
        if self._routes is None or self._routes[0] != key:
            routes = Routes(store, task)
            line = calibration_line(routes.router.calibration, len(routes.router.names))
            if line not in self.said:
                self.said.add(line)
                self.progress.say(line)
            self._routes = key, routes
        return self._routes[1]

    def score(
        self,
        task: str,
        rows: Sequence[Row],
        rule: Rule | None,
        *,
        generations: int,
        max_new_tokens: int,
        title: str,
        text_metrics: Sequence[str] = (),
        names: Sequence[str] = (),
        always_answer: bool = False,
        decoder: Decoder | None = None,
    ) -> TaskScores:
        """Scores of one task's held-out rows with the model as it is.

        Args:
            task: name.
            rows: held-out rows.
            rule: of the task; None: it has none.
            generations: greedy answers; 0: none.
            max_new_tokens: longest answer, in tokens.
            title: of the progress stages.
            text_metrics: names of text metrics of the answers.
            names: scores from outside, beside ours.
            always_answer: also answers that neither a rule nor a text metric asks for.
            decoder: chooses the answers; None: they are greedy.
        """
        self.strategy.select(self.model, task)
        pairs = self._encode_stored(task, rows)
        reference = self.view.logps(pairs, base=True, title=f"{title}: reference")
        policy = self.policy_logps(pairs, title)
        encoded = {p.digest for p in pairs}
        fitting = [row for row in rows if row.digest in encoded]
        scores = score_rows(policy, reference, pairs, self.reward_beta, names, fitting, self._point(pairs, title))
        scorer = AnswerScorer(rule, text_metrics)
        if not generations or not (scorer or always_answer):
            return TaskScores(task, scores)
        answer = partial(self._answer, max_new_tokens=max_new_tokens, title=f"{title}: answers", decoder=decoder)
        found = answer_rows(answer, self.encoder, fitting, scorer, generations)
        return replace(found, task=task, rows=scores | dict(found.rows))

    def _point(self, pairs: Sequence[EncodedPair], title: str) -> float:
        """KTO's reference point of held-out rows against the base model, nats; 0 without feedback among them."""
        others = with_others(pairs, FeedbackConfig())[0][len(pairs) :]
        if not others:
            return 0.0
        reference = self.view.logps(others, base=True, title=f"{title}: reference point")
        policy = self.policy_logps(others, f"{title}: reference point")
        return reference_point(FeedbackConfig(), self.reward_beta, policy, reference, others)

    def _encode_stored(self, task: str, rows: Sequence[Row]) -> list[EncodedPair]:
        """Rows of a task with the limits that it was learnt with, so that later tasks' limits do not move its scores."""
        data = self._data.get(task)
        if not data:  # not learnt yet
            return self.encoder.encode(rows)[0]
        with limits(self.encoder, min(data["max_length"], self.base.positions), "drop"):
            return self.encoder.encode(rows)[0]

    def generate(self, prompts: Sequence[str | Sequence[Message]], **options: Any) -> list[str]:
        """Answers to prompts, each one user turn or a conversation that ends with one; see `generate.generate`."""
        self.strategy.select(self.model, None)
        return self._answer([turns_of(p) for p in prompts], **options)

    def _answer(
        self, prompts: Sequence[Sequence[Message]], reasons: Sequence[bool] | None = None, **options: Any
    ) -> list[str]:
        """Answers of the policy: of the model as it is, or routed; see `generate.generate`."""
        ids = [self.encoder.prompt_ids(p, bool(reasons and reasons[i])) for i, p in enumerate(prompts)]
        answers = [""] * len(prompts)
        answering = partial(generate, self.model, self.encoder)
        if (decoder := options.pop("decoder", None)) is not None:
            answering = partial(decode, decoder, self.model, self.encoder, implicit=self.implicit_rewards)
        for members in self.routed(ids):
            texts = answering(
                [prompts[i] for i in members],
                progress=self.progress,
                prefix=self.strategy.prefix,
                reasons=[reasons[i] for i in members] if reasons else None,
                **options,
            )
            for i, text in zip(members, texts, strict=True):
                answers[i] = text
        return answers

    def implicit_rewards(self, prompts: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[float | None]:
        """The memory's own reward of answers by the weights in place: beta log(policy / base model), None for an empty one."""
        there = [i for i, answer in enumerate(answers) if answer]
        rows = [Row(tuple(prompts[i]), str(answers[i]), "", kind="demonstration") for i in there]
        found: list[float | None] = [None] * len(answers)
        with limits(self.encoder, self.base.positions, "drop"):
            pairs = self.encoder.encode(rows, allow_none=True)[0]
        base = self.view.logps(pairs, base=True, title="reward: reference")[:, 0].tolist()
        policy = self.view.chosen_logps(pairs, "reward")
        for pair, own, other in zip(pairs, policy, base, strict=True):
            found[there[pair.position]] = self.reward_beta * (own - other)
        return found

    def policy_logps(self, pairs: Sequence[EncodedPair], title: str) -> Tensor:
        """Summed log-probs [N, 2] (chosen, rejected) of the policy: of the model as it is, or routed by the prompts."""
        found = torch.zeros(len(pairs), 2)
        for members in self.routed([p.prompt for p in pairs]):
            found[members] = self.view.logps([pairs[i] for i in members], base=False, title=title)
        return found

    def chosen_logps(self, pairs: Sequence[EncodedPair], title: str) -> list[float]:
        """Summed log-prob of each chosen answer under the policy, nats; nothing is cached."""
        found = [0.0] * len(pairs)
        for members in self.routed([p.prompt for p in pairs]):
            for i, value in zip(members, self.view.chosen_logps([pairs[i] for i in members], title), strict=True):
                found[i] = value
        return found

    def routed(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Positions of prompts that one set of weights answers, while the model holds it; all at once without routing."""
        routes = self.routes if prompts else None
        if routes is None:
            with holding(self.model, self.rest) if self.rest else nullcontext():
                yield list(range(len(prompts)))
            return
        for group in routes.groups(self.view, prompts):
            with holding(self.model, group.adapter):
                yield list(group.members)


@contextmanager
def limits(encoder: Encoder, max_length: int, long_prompts: Literal["error", "drop"]) -> Iterator[None]:
    """Encode with these limits for a while, for rows of a task that was learnt with them."""
    own = encoder.max_length, encoder.long_prompts
    encoder.max_length, encoder.long_prompts = max_length, long_prompts
    try:
        yield
    finally:
        encoder.max_length, encoder.long_prompts = own
