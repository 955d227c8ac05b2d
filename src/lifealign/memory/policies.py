"""The model at several points of a memory's life, one at a time: their answers, and what they think of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lifealign.data.tasks import Message, Row
from lifealign.evaluation.drift import TOP_P, Material
from lifealign.evaluation.metrics import Array
from lifealign.memory.session import Session
from lifealign.model.encoding import EncodedPair
from lifealign.model.sampling import sample
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader

HELD = 3
"""Points whose weights are kept at hand: the newest one, the one before it, and the base."""
LOGITS = 1 << 27
"""Numbers of the distributions that are held at once (float32: 512 MiB)."""
SAMPLING: Mapping[str, tuple[float, float]] = {"nucleus": (1.0, TOP_P), "samples": (1.0, 1.0), "greedy": (0.0, 1.0)}
"""Material -> temperature and nucleus of the sampling."""
Answers = Sequence[tuple[int, ...]]


class Policies:
    """The policies of a memory; routed memories answer and score through their router.

    Args:
        session: the loaded model.
        store: the memory.
    """

    def __init__(self, session: Session, store: MemoryReader) -> None:
        self.session, self.store = session, store
        self._kept: dict[str, Callable[[], None]] = {}

    def use(self, point: TaskManifest, task: str | None) -> None:
        """Put the model of a point in place, for prompts of a task, or of none."""
        put = self._kept.pop(point.directory, None)
        if put is None:
            self.session.load(self.store, point)
            put = self.session.kept()
            while len(self._kept) >= HELD:
                del self._kept[next(iter(self._kept))]
        else:
            put()
        self._kept[point.directory] = put  # the last one used goes last
        self.session.strategy.select(self.session.model, task)

    def prompt_ids(self, prompts: Sequence[Sequence[Message]], rows: Sequence[Row | None]) -> list[tuple[int, ...]]:
        """Token ids of prompts; () for one that leaves no room for an answer."""
        encoder = self.session.encoder
        found = [
            tuple(encoder.prompt_ids(p, row is not None and encoder.reasons(row)))
            for p, row in zip(prompts, rows, strict=True)
        ]
        return [ids if 0 < len(ids) < encoder.max_length else () for ids in found]

    def pairs(self, rows: Sequence[Row]) -> dict[int, tuple[tuple[int, ...], Answers]]:
        """Position of a row -> ids of its prompt, and of its two answers; rows that do not fit are left out."""
        encoded = self.session.encoder.encode(rows, allow_none=True)[0]
        return {p.position: (tuple(p.prompt), (tuple(p.chosen), tuple(p.rejected))) for p in encoded}

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        material: Material,
        copies: int,
        max_new_tokens: int,
        seed: int,
        title: str,
    ) -> list[Answers]:
        """Answers of the policy in place to each prompt, as token ids; greedy ones are one to a prompt."""
        temperature, top_p = SAMPLING[material]
        found: list[Answers] = [()] * len(prompts)
        for members in self.session.routed(prompts):
            made = sample(
                self.session.model,
                self.session.encoder,
                [prompts[i] for i in members],
                1 if material == "greedy" else copies,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                progress=self.session.progress,
                title=title,
                prefix=self.session.strategy.prefix,
            )
            for i, answers in zip(members, made, strict=True):
                found[i] = answers
        return found

    def log_probs(
        self,
        points: Mapping[str, TaskManifest],
        task: str | None,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Answers],
    ) -> Iterator[dict[str, list[Array]]]:
        """For each prompt: policy -> the distributions [T, V] at the tokens of each of its answers, nats.

        Args:
            points: policy -> its point; equal points are computed once.
            task: of the prompts; None: none.
            prompts: token ids.
            answers: to each prompt.
        """
        different = {point.directory: point for point in points.values()}
        for group in self._groups(answers, len(different)):
            found: dict[str, dict[int, list[Array]]] = {}
            for directory, point in different.items():
                self.use(point, task)
                found[directory] = self._of_group(group, prompts, answers)
            for i in group:
                yield {policy: found[point.directory][i] for policy, point in points.items()}

    def _of_group(
        self, group: Sequence[int], prompts: Sequence[Sequence[int]], answers: Sequence[Answers]
    ) -> dict[int, list[Array]]:
        found = {}
        for members in self.session.routed([prompts[i] for i in group]):
            for i in (group[m] for m in members):
                # Prompts are read once for all of their answers; a row branches before the last token of the prompt.
                ids = tuple(prompts[i])
                shared = EncodedPair(ids, (), (), False, False, "", opening=max(0, len(ids) - 2))
                rows = [replace(shared, chosen=a, rejected=a, position=k) for k, a in enumerate(answers[i])]
                found[i] = [np.asarray(one.float().numpy()) for one in self.session.view.distributions(rows)]
        return found

    def _groups(self, answers: Sequence[Answers], policies: int) -> Iterator[list[int]]:
        """Positions of prompts whose distributions fit into `LOGITS` together; a larger one is alone."""
        head = self.session.base.model.get_output_embeddings()
        vocabulary = int(head.weight.shape[0])
        group: list[int] = []
        used = 0
        for i, own in enumerate(answers):
            size = policies * vocabulary * sum(map(len, own))
            if group and used + size > LOGITS:
                yield group
                group, used = [], 0
            group.append(i)
            used += size
        if group:
            yield group
