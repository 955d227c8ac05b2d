"""Answers of a memory at several points of its life, as records. Answers stored by an evaluation are reused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lifealign.core.errors import ConfigError, DataError
from lifealign.data.answers import BASE, AnswerRecord
from lifealign.data.prompt_baselines import PROMPT_BASELINES
from lifealign.data.suites.rules import in_words
from lifealign.data.tasks import Row, Task, rows_sha256
from lifealign.evaluation.catalog import text_metrics
from lifealign.evaluation.records import read_records
from lifealign.memory.early import bound
from lifealign.memory.rules import find_rules
from lifealign.store.heldout import heldout
from lifealign.store.layout import ROOT, ROW_RECORD
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import NOW, place
from lifealign.store.retired import retired

if TYPE_CHECKING:
    from lifealign.data.suites.rules import Rule
    from lifealign.memory.session import Session
    from lifealign.model.decoding import Decoder
    from lifealign.store.writer import MemoryStore

COUNT = 20
"""Prompts per task if neither the call nor the memory's configuration (`evaluate.generations`) gives a number."""
ROW_SCORES = ("accuracy", "margin")
"""Scores of a held-out row's pair, beside those of the answer; a task without a rule has no others."""


@dataclass(frozen=True)
class Asked:
    """Which answers to get from a memory.

    Attributes:
        tasks: names; empty: all learnt tasks.
        at: points, each a task's name, a tag, `BASE` or `NOW`.
        every_point: instead, for each task: before any task, after it was learnt, and after each later one.
        count: prompts per task, the first of the split; None: the memory's `evaluate.generations`, else `COUNT`. 1 <= count.
        max_new_tokens: longest answer, in tokens; None: as in the memory's evaluations. 1 <= max_new_tokens.
        source: name of the answering model in the records; None: the memory's strategy, with the decoder if there is one.
        split: `test` or `validation`.
        prompt_baseline: name of a prompt that makes the base model an assistant, which then answers instead; None: none.
        decoder: chooses the answers; None: they are greedy, and those that an evaluation stored are used.
    """

    tasks: Sequence[str] = ()
    at: Sequence[str] = (NOW,)
    every_point: bool = False
    count: int | None = None
    max_new_tokens: int | None = None
    source: str | None = None
    split: str = "test"
    prompt_baseline: str | None = None
    decoder: Decoder | None = None

    def check(self) -> None:
        """Check the values that do not depend on a memory.

        Raises:
            ConfigError: a number or split out of range.
        """
        if self.split not in ("test", "validation"):
            raise ConfigError(f"split {self.split!r}: allowed: test, validation")
        for name in ("count", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: allowed: 1 <= {name}")
        if self.prompt_baseline is not None:
            PROMPT_BASELINES.find(self.prompt_baseline)
            if self.decoder is not None:
                raise ConfigError(
                    f"prompt baseline {self.prompt_baseline}: its answers are greedy; leave out the decoder or the baseline"
                )
            if self.every_point or set(self.at) - {NOW, BASE}:
                raise ConfigError(
                    f"prompt baseline {self.prompt_baseline}: the base model answers, at no other point; leave the points out"
                )


def answer_memory(store: MemoryStore, session: Callable[[], Session], asked: Asked) -> list[AnswerRecord]:
    """Answers to held-out prompts, greedy or by a decoder, by point and then by task; the memory is not changed.

    Args:
        store: the memory.
        session: loads the model; called at most once, only if an answer is not stored yet.
        asked: the answers to get.

    Raises:
        ConfigError: a number or split out of range.
        DataError: no task learnt yet, no such task, or a task without rows in the split.
        StoreError: no such point.
    """
    asked.check()
    if asked.prompt_baseline is not None:
        asked = replace(asked, at=(BASE,), source=asked.source or asked.prompt_baseline)
    evaluate = store.config["evaluate"]
    count = asked.count or evaluate["generations"] or COUNT
    max_new_tokens = asked.max_new_tokens or evaluate["max_new_tokens"]
    loaded: Session | None = None
    metrics: list[str] | None = None
    if asked.decoder is not None:
        bound(asked.decoder, store, {"max_new_tokens": max_new_tokens})
    records = []
    for point, tasks in _plan(store, asked):
        own = asked.prompt_baseline is None and asked.decoder is None
        scores: list[Mapping[str, Any] | None] = [
            stored_scores(store, point, task, asked.split, count, max_new_tokens) if own else None for task in tasks
        ]
        if missing := [task for task, found in zip(tasks, scores, strict=True) if found is None]:
            loaded = loaded or session()
            metrics = _here(loaded, store) if metrics is None else metrics
            loaded.load(store, point)
            rules = find_rules(missing, store)
            loaded.warn(rules.warnings)
            made = {
                t.name: _generate(loaded, point, t, rules.of(t), asked, count, max_new_tokens, metrics) for t in missing
            }
            scores = [found or made[task.name] for task, found in zip(tasks, scores, strict=True)]
        for task, score in zip(tasks, scores, strict=True):
            assert score is not None
            records += list(_records(store, point, task, score, asked, count))
    return records


def _plan(store: MemoryStore, asked: Asked) -> list[tuple[TaskManifest, list[Task]]]:
    """Points, in the order of the memory's life, each with the tasks whose prompts are answered there."""
    lineage = store.lineage()
    known = {task.name: task for task in heldout(store, with_retired=True)}
    gone = retired(store)
    if not known:
        raise DataError(f"{store.path}: no task learnt yet, so no held-out prompts to answer; learn a task first")
    if unknown := [name for name in asked.tasks if name not in known]:
        raise DataError(f"{store.path}: no task {unknown[0]!r}; known: {', '.join(known)}")
    # A retired task keeps its rows, and is answered where it was in force if it is asked for by name.
    tasks = [known[name] for name in dict.fromkeys(asked.tasks or [n for n in known if n not in gone] or known)]
    if empty := [task.name for task in tasks if not rows_of(task, asked.split)]:
        raise DataError(f"{store.path}: task {empty[0]!r} has no {asked.split} rows; learn it with some to get answers")
    if not asked.every_point:
        named = {(lineage[0] if at == BASE else store.head if at == NOW else store.find(at)).index for at in asked.at}
        return [(manifest, tasks) for manifest in lineage if manifest.index in named]
    learnt = {name: manifest.index for manifest in lineage[1:] for name in manifest.members}
    ends = {name: store.find(directory).index for name, directory in gone.items()}
    return [
        (m, [t for t in tasks if m.index == 0 or learnt[t.name] <= m.index < ends.get(t.name, math.inf)])
        for m in lineage
    ]


def rows_of(task: Task, split: str) -> tuple[Row, ...]:
    """Held-out rows of a task."""
    return task.test if split == "test" else task.validation


def stored_scores(
    store: MemoryStore, point: TaskManifest, task: Task, split: str, count: int, max_new_tokens: int
) -> Mapping[str, Any] | None:
    """The newest evaluation record of a task with answers to its first `count` prompts; None if no record has them."""
    rows = rows_of(task, split)
    for record in reversed(read_records(store)):
        options = record["options"]
        if record["kind"] != ROW_RECORD or (record["after"], options["split"]) != (point.directory, split):
            continue
        if options.get("max_new_tokens") != max_new_tokens:
            continue
        for score in record["scores"]:
            whole = score["rows_sha256"] == rows_sha256(rows[: options["rows"]])
            if score["task"] == task.name and whole and len(score["answers"]) >= min(count, len(rows)):
                found: Mapping[str, Any] = score
                return found
    return None


def _here(session: Session, store: MemoryStore) -> list[str]:
    """The configured text metrics without those from outside that are not here: answers do not wait for them."""
    from lifealign.memory.code import find_scores

    wanted = session.config.evaluate.text_metrics
    here = find_scores({"text_metrics": wanted}, store)
    found = [name for name in wanted if name in here or name in text_metrics()]
    if missing := [name for name in wanted if name not in found]:
        session.progress.say(f"warning: answers are not scored by {', '.join(missing)}, which cannot be found here")
    return found


def _generate(
    session: Session,
    point: TaskManifest,
    task: Task,
    rule: Rule | None,
    asked: Asked,
    count: int,
    max_new_tokens: int,
    metrics: Sequence[str],
) -> Mapping[str, Any]:
    rows, title = rows_of(task, asked.split)[:count], f"{place(point)}: {task.name}"
    if asked.prompt_baseline is not None:
        from lifealign.memory.prompt_baseline import baseline_scores
        from lifealign.memory.row_scores import AnswerScorer

        session.strategy.select(session.model, None)
        baseline, scorer = PROMPT_BASELINES.find(asked.prompt_baseline), AnswerScorer(rule, metrics)
        return baseline_scores(session, baseline, task.name, rows, scorer, count, max_new_tokens, title).to_json()
    return session.score(
        task.name,
        rows,
        rule,
        generations=count,
        max_new_tokens=max_new_tokens,
        title=title,
        text_metrics=metrics,
        always_answer=True,
        decoder=asked.decoder,
    ).to_json()


def _records(
    store: MemoryStore, point: TaskManifest, task: Task, score: Mapping[str, Any], asked: Asked, count: int
) -> Iterable[AnswerRecord]:
    how = "" if asked.decoder is None else f"+{type(asked.decoder).__name__.lower()}"
    source = asked.source or f"{store.config['strategy']['name']}{how}"
    stage = sum(len(m.members) or 1 for m in store.lineage()[1:] if m.index <= point.index)
    rows = iter(rows_of(task, asked.split))
    prompts, rule = set(), in_words(task.checker)
    for i, found in enumerate(score["answers"][:count]):
        # Rows that do not fit into the context were left out, so answers are a part of the rows, in their order.
        row = next((row for row in rows if row.prompt[-1].content == found["prompt"]), None)
        if row is None:
            return
        if row.prompt in prompts:  # another row of feedback on this prompt, which has the same greedy answer
            continue
        prompts.add(row.prompt)
        passed = {} if found["passed"] is None else {"pass_rate": float(found["passed"])}
        yield AnswerRecord.of(
            task.name,
            row.prompt,
            found["answer"],
            source=source,
            point=BASE if point.directory == ROOT else point.name,
            stage=stage,
            reference=row.chosen or None,
            rejected=row.rejected or None,
            scores=passed | dict(found["scores"]) | _of_row(score["rows"], i),
            rule=rule,
            finish=found.get("finish"),
            decoding=found.get("decoding"),
        )


def _of_row(rows: Mapping[str, Sequence[float | None]], i: int) -> dict[str, float]:
    """Those of `ROW_SCORES` that are defined for a row."""
    return {m: value for m in ROW_SCORES if m in rows and (value := rows[m][i]) is not None}
