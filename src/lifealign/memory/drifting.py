"""Measure how a memory's model drifts over its life, and keep the values beside its tasks; no torch by itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lifealign.core.errors import ConfigError, DataError, UserError
from lifealign.data.prompts import read_prompts
from lifealign.data.sources import expand_path
from lifealign.data.tasks import Message, Row, rows_sha256
from lifealign.evaluation.drift import MEASURES, Measure, Reading, Seen
from lifealign.evaluation.drift_results import (
    asked_rows,
    described,
    drift_lines,
    drift_results,
    prompts_sha256,
    same_taking,
)
from lifealign.evaluation.principles_file import read_principles
from lifealign.evaluation.records import read_records
from lifealign.store.heldout import heldout
from lifealign.store.layout import DRIFT_RECORD, WARNINGS
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import place

if TYPE_CHECKING:
    from lifealign.memory.policies import Policies
    from lifealign.memory.session import Session
    from lifealign.store.writer import MemoryStore

DEFAULT = ("branching", "shift", "ledger")
"""Measures that are taken if none is named."""
ALL_PAIRS = "pairs"


@dataclass(frozen=True)
class DriftAsked:
    """What to measure.

    Attributes:
        measures: names, or path/to/file.py:Name; empty: `DEFAULT`.
        at: points, each a task's name, a tag, `base` or `now`; empty: every point of the life.
        principles: a YAML file of principles, which adds the measure `principles`; None: the built-in ones.
        prompts: a file of prompts in place of the held-out rows' prompts; None: those of all tasks.
        count: prompts per task, the first ones. 1 <= count.
        samples: sampled answers to each prompt. 2 <= samples.
        max_new_tokens: longest answer, in tokens. 1 <= max_new_tokens.
        split: held-out rows whose prompts are answered, `test` or `validation`.
        seed: of the sampling.
    """

    measures: Sequence[str] = ()
    at: Sequence[str] = ()
    principles: str | None = None
    prompts: str | None = None
    count: int = 8
    samples: int = 8
    max_new_tokens: int = 32
    split: str = "test"
    seed: int = 0

    def check(self) -> None:
        """Check the values that do not depend on a memory.

        Raises:
            ConfigError: a number, split or measure that cannot be.
        """
        if self.split not in ("test", "validation"):
            raise ConfigError(f"split {self.split!r}: allowed: test, validation")
        for name, least in (("count", 1), ("samples", 2), ("max_new_tokens", 1)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name}={value}: allowed: {least} <= {name}")
        for name in self.named:
            if MEASURES.find(name).material == ALL_PAIRS and self.prompts is not None:
                raise ConfigError(
                    f"drift measure {name} reads pairs of held-out rows, and --prompts has prompts alone; drop one of them"
                )
        if self.principles is not None:
            read_principles(self.principles)

    @property
    def named(self) -> list[str]:
        """The measures to take."""
        own = [] if self.principles is None else ["principles"]
        return list(dict.fromkeys([*(self.measures or DEFAULT), *own]))


@dataclass(frozen=True)
class Drift:
    """Drift measures over the points of a memory's life.

    Attributes:
        results: see `drift_results.drift_results`.
    """

    results: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(self.results)

    def lines(self) -> list[str]:
        """A table for each measure."""
        return drift_lines(self.results)


@dataclass(frozen=True)
class Group:
    """Prompts that are measured together: those of a task, or of a file.

    Attributes:
        task: name of the task, or of the file.
        of_task: whether it is a task.
        rows: the held-out rows; None: prompts of a file.
        prompts: the conversations.
        sha256: checksum of them.
    """

    task: str
    of_task: bool
    rows: Sequence[Row | None]
    prompts: Sequence[Sequence[Message]]
    sha256: str


@dataclass
class Taken:
    """What a measure gave on one group."""

    values: dict[str, list[float]] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    tallies: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, found: Reading) -> None:
        """Take the reading of one more prompt."""
        for column, value in found.values.items():
            self.values.setdefault(column, []).append(float(value))
        for name, curve in found.curves.items():
            own = self.curves.setdefault(name, [])
            for t, (total, count) in enumerate(curve):
                if t == len(own):
                    own.append([0.0, 0])
                own[t] = [own[t][0] + total, own[t][1] + count]
        for name, tally in found.tallies.items():
            self.tallies.setdefault(name, Counter()).update(tally)


def measure_drift(store: MemoryStore, session: Callable[[], Session], asked: DriftAsked, resamples: int) -> Drift:
    """Take drift measures at points of a memory's life, unless they are stored already.

    Args:
        store: the memory.
        session: loads the model; called at most once, only if something is not stored yet.
        asked: what to measure.
        resamples: bootstrap samples of the intervals.

    Raises:
        ConfigError: a number, a split or a measure that cannot be.
        DataError: no task learnt yet, or no prompts.
        StoreError: no such point; or there is something to measure and nothing can be written.
    """
    asked.check()
    lineage = store.lineage()
    named = {store.find(at).index for at in asked.at}
    points = [m for m in lineage if not named or m.index in named]
    todo = _todo(store, points, asked)
    if todo:
        loaded = session()
        _say_cost(loaded, asked, todo)
        from lifealign.memory.policies import Policies
        from lifealign.memory.session import locked_if_allowed

        policies = Policies(loaded, store)
        with locked_if_allowed(loaded, store) as refused:
            if refused is not None:
                raise refused
            for point in points:
                work = {name: groups for at, name, groups in todo if at is point}
                if work:
                    _take_point(policies, store, point, work, asked)
    return Drift(drift_results(store, resamples))


def _options(name: str, asked: DriftAsked) -> dict[str, Any]:
    """The options that decide a measure's values, as a record keeps them."""
    measure = MEASURES.find(name)
    found: dict[str, Any] = {"measure": name, "material": measure.material, "split": asked.split, "seed": asked.seed}
    found["count"] = None if measure.material == ALL_PAIRS else asked.count
    if measure.material != ALL_PAIRS:
        found["max_new_tokens"] = asked.max_new_tokens
    if measure.material in ("nucleus", "samples"):
        found["samples"] = asked.samples
    if "principles" in measure.options:
        found["principles"] = read_principles(asked.principles).sha256
    if asked.prompts is not None:
        found |= {
            "path": asked.prompts,
            "sha256": prompts_sha256([p.turns for p in read_prompts(expand_path(asked.prompts))]),
        }
    return found


def _groups(store: MemoryStore, name: str, asked: DriftAsked) -> list[Group]:
    """The prompts that a measure reads, by task.

    Raises:
        DataError: no prompt.
    """
    pairs = MEASURES.find(name).material == ALL_PAIRS
    if asked.prompts is not None:
        found = [p.turns for p in read_prompts(expand_path(asked.prompts))][: asked.count]
        return [Group("prompts", False, [None] * len(found), found, prompts_sha256(found))]
    tasks = heldout(store)
    if not tasks:
        raise DataError(f"{store.path}: no task learnt yet, so no held-out prompts to answer; learn a task first")
    groups = []
    for task in tasks:
        rows = asked_rows(task, asked.split, None if pairs else asked.count, pairs)
        if rows:
            groups.append(Group(task.name, True, rows, [r.prompt for r in rows], rows_sha256(rows)))
    if not groups:
        what = "pairs" if pairs else "rows"
        raise DataError(f"{store.path}: no task has {asked.split} {what}; give --prompts FILE, or another --split")
    return groups


def _todo(
    store: MemoryStore, points: Sequence[TaskManifest], asked: DriftAsked
) -> list[tuple[TaskManifest, str, list[Group]]]:
    """Point, measure, and the groups that no record has there; without those that are all there."""
    records = [record for record in read_records(store) if record["kind"] == DRIFT_RECORD]
    found = []
    for name in asked.named:
        options, origin, groups = _options(name, asked), _origin(name), _groups(store, name, asked)
        done = {
            (record["after"], score["task"], score["rows_sha256"])
            for record in records
            if same_taking(record["options"], options)
            and record.get("described", {}).get(name, {}).get("origin", {}).get("sha256") == origin.get("sha256")
            for score in record["scores"]
        }
        # Before any task there is nothing to compare with.
        measured = [p for p in points if p.index or not MEASURES.find(name).against]
        for point in measured:
            if missing := [g for g in groups if (point.directory, g.task, g.sha256) not in done]:
                found.append((point, name, missing))
    return found


def _origin(name: str) -> dict[str, Any]:
    """The origin of a measure from outside; {} of a built-in one."""
    return MEASURES.origin(name).to_json() if MEASURES.is_outside(name) else {}


def _say_cost(session: Session, asked: DriftAsked, todo: Sequence[tuple[TaskManifest, str, Sequence[Group]]]) -> None:
    """Say how much is to be computed, before it is."""
    written = scored = 0
    answered: set[tuple[str, str, str]] = set()
    for point, name, groups in todo:
        measure = MEASURES.find(name)
        copies = {"greedy": 1, "pairs": 2}.get(measure.material, asked.samples)
        for group in groups:
            key = (point.directory, measure.material, group.task)
            count = len(group.prompts) * copies
            written += 0 if measure.material == ALL_PAIRS or key in answered else count
            scored += count * (1 + len(measure.against))
            answered.add(key)
    points = len({point.directory for point, _, _ in todo})
    tokens = "" if not written else f" of at most {asked.max_new_tokens} tokens"
    session.progress.say(
        f"drift: {points} {'point' if points == 1 else 'points'}; {written} answers{tokens} to write, {scored} to read"
    )


def _take_point(
    policies: Policies, store: MemoryStore, point: TaskManifest, work: Mapping[str, Sequence[Group]], asked: DriftAsked
) -> None:
    """Take measures at one point, and append a record for each."""
    session, lineage = policies.session, store.lineage()
    before = lineage[max(0, [m.index for m in lineage].index(point.index) - 1)]
    at = {"now": point, "base": lineage[0], "previous": before}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in work}
    materials = dict.fromkeys(MEASURES.find(name).material for name in work)
    for material in materials:
        own = {name: groups for name, groups in work.items() if MEASURES.find(name).material == material}
        for group in {g.task: g for groups in own.values() for g in groups}.values():
            names = [name for name, groups in own.items() if any(g.task == group.task for g in groups)]
            for name, score in _take_group(policies, at, material, group, names, asked).items():
                found[name].append(score)
    for name, scores in found.items():
        record: dict[str, Any] = {"kind": DRIFT_RECORD, "after": point.directory, "options": _options(name, asked)}
        record["scores"] = scores
        if origin := _origin(name):
            columns = list(dict.fromkeys(c for s in scores for c in s["values"]))
            record["described"] = {name: {**described(MEASURES.find(name), columns), "origin": origin}}
        if session.changed:
            record[WARNINGS] = list(session.changed)
        if session.accelerator.is_main_process:
            store.append_evaluation(record)
        session.accelerator.wait_for_everyone()


def _take_group(
    policies: Policies,
    at: Mapping[str, TaskManifest],
    material: Any,
    group: Group,
    names: Sequence[str],
    asked: DriftAsked,
) -> dict[str, dict[str, Any]]:
    """Measure -> its values on one group, as a record keeps them."""
    task, title = group.task if group.of_task else None, f"{place(at['now'])}: {group.task}"
    measures = {name: MEASURES.find(name) for name in names}
    if material == ALL_PAIRS:
        there = policies.pairs([row for row in group.rows if row is not None])
        kept, prompts, answers = list(there), [ids for ids, _ in there.values()], [own for _, own in there.values()]
    else:
        every = policies.prompt_ids(group.prompts, group.rows)
        kept = [i for i, ids in enumerate(every) if ids]
        prompts = [every[i] for i in kept]
        policies.use(at["now"], task)
        answers = policies.answers(prompts, material, asked.samples, asked.max_new_tokens, asked.seed, title)
    wanted = {"now", *(policy for m in measures.values() for policy in m.against)}
    taken = {name: Taken() for name in names}
    settings = {"principles": read_principles(asked.principles)}
    decode = policies.session.encoder.tokenizer.decode
    views = policies.log_probs({p: m for p, m in at.items() if p in wanted}, task, prompts, answers)
    with policies.session.progress.stage(f"{title}: read", len(prompts), "prompts") as stage:
        for i, own, log_probs in zip(kept, answers, views, strict=True):
            for name, measure in measures.items():
                seen = Seen(
                    group.prompts[i][-1].content,
                    own,
                    {p: log_probs[p] for p in ("now", *measure.against)},
                    lambda token: str(decode([token])),
                    group.rows[i],
                    {key: settings[key] for key in measure.options},
                )
                taken[name].add(_reading(name, measure, seen))
            stage.advance(1)
    left_out = len(group.prompts) - len(kept)
    return {
        name: {"task": group.task, "rows_sha256": group.sha256, **vars(t), "left_out": left_out}
        for name, t in taken.items()
    }


def _reading(name: str, measure: Measure, seen: Seen) -> Reading:
    """The reading of a measure; that of one from outside is checked.

    Raises:
        ConfigError: a measure from outside fails, or does not give finite numbers.
    """
    if not MEASURES.is_outside(name):
        found = measure.function(seen)
        return found if isinstance(found, Reading) else Reading(found)
    here = f"drift measure {name!r} ({MEASURES.origin(name)})"
    try:
        given = measure.function(seen)
        found = given if isinstance(given, Reading) else Reading({str(k): float(v) for k, v in given.items()})
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(f"{here} failed: {type(error).__name__}: {error}") from error
    if wrong := [c for c, v in found.values.items() if not math.isfinite(v)]:
        raise ConfigError(f"{here}: {wrong[0]} of the prompt {seen.prompt[:60]!r} is not a finite number")
    return found
