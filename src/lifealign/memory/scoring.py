"""Score rows of R, each once, and append them to the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lifealign.core.config import EvaluateConfig, RunConfig
from lifealign.core.errors import StoreError
from lifealign.data.tasks import Task, rows_sha256
from lifealign.evaluation.guard_results import with_guard
from lifealign.evaluation.outside import KEY, require
from lifealign.evaluation.records import read_records
from lifealign.evaluation.results import read_scores, run_results
from lifealign.memory.code import find_scores
from lifealign.memory.guard import score_guard
from lifealign.memory.outcomes import Evaluation
from lifealign.memory.row_scores import TaskScores
from lifealign.memory.rules import Rules, find_rules
from lifealign.memory.session import Session, locked_if_allowed
from lifealign.store.layout import ROW_RECORD, RULES, WARNINGS
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader, place
from lifealign.store.retired import retired
from lifealign.store.writer import MemoryStore

WHOLE = "evaluate.cells=ends: any task may be the last one here, so its whole row of R is scored"
"""Said once where tasks are learnt one by one."""


def score_tasks(
    session: Session, store: MemoryStore, after: TaskManifest, tasks: Sequence[Task], config: RunConfig
) -> Evaluation:
    """Score `tasks` and the guard as they were after `after`, unless recorded already; see `Memory.evaluate`."""
    with locked_if_allowed(session, store) as refused:
        score_row(session, store, after, tasks, config, refused)
        for at in dict.fromkeys((store.lineage()[0].directory, after.directory)):
            score_guard(session, store, store.find(at), config.guard, refused)
    table = read_scores(store, config.evaluate.split)
    cells = table.cells(after.directory, [t.name for t in tasks], config.evaluate.bootstrap)
    results = run_results(store, table)
    return Evaluation(
        after.directory,
        config.evaluate.split,
        cells,
        with_guard(results),
        results.get("guard", {}),
        results.get(WARNINGS, ()),
    )


def score_row(
    session: Session,
    store: MemoryStore,
    after: TaskManifest,
    tasks: Sequence[Task],
    config: RunConfig,
    refused: StoreError | None = None,
) -> list[TaskScores]:
    """Score `tasks` with the weights as they were after `after` and append the record, unless it exists already.

    Raises:
        StoreError: `refused`, if there is something to score and nothing can be written.
    """
    options = config.evaluate
    wanted = _wanted(options)
    outside = find_scores(wanted, store)
    rules = find_rules(tasks, store) if options.generations else Rules()
    done = _scored(store, after, tasks, wanted, outside, rules)
    rows = {t.name: getattr(t, options.split)[: options.rows] for t in tasks}
    missing = [t for t in tasks if rows[t.name] and (t.name, rows_sha256(rows[t.name])) not in done]
    if not missing:
        return []
    if refused is not None:
        raise refused
    require(options.text_metrics, options.scores)
    session.warn(rules.warnings)
    session.load(store, after)
    scores = []
    for task in missing:
        title = f"{place(after)}: score {task.name}"
        score = session.score(
            task.name,
            rows[task.name],
            rules.of(task),
            generations=options.generations,
            max_new_tokens=options.max_new_tokens,
            title=title,
            text_metrics=options.text_metrics,
            names=options.scores,
        )
        scores.append(replace(score, rows_sha256=rows_sha256(rows[task.name])))
    record: dict[str, Any] = {
        "kind": ROW_RECORD,
        "after": after.directory,
        "options": wanted,
        "scores": [s.to_json() for s in scores],
    }
    if outside:
        record[KEY] = outside
    if asked := [t.checker for t in missing if t.checker is not None and t.checker in rules.origins]:
        record[RULES] = {name: rules.origins[name] for name in asked}
    if warnings := [*session.changed, *rules.changed]:
        record[WARNINGS] = warnings
    if session.accelerator.is_main_process:
        store.append_evaluation(record)
    session.accelerator.wait_for_everyone()
    return scores


def _wanted(options: EvaluateConfig) -> dict[str, Any]:
    """The options that decide a row's values, as a record keeps them."""
    wanted: dict[str, Any] = {"split": options.split, "rows": options.rows, "generations": options.generations}
    if options.generations:
        wanted["max_new_tokens"] = options.max_new_tokens
    if options.text_metrics:
        wanted["text_metrics"] = list(options.text_metrics)
    if options.scores:
        wanted["scores"] = list(options.scores)
    return wanted


def _scored(
    store: MemoryReader,
    after: TaskManifest,
    tasks: Sequence[Task],
    wanted: Mapping[str, Any],
    outside: Mapping[str, Mapping[str, Any]],
    rules: Rules,
) -> set[tuple[str, str]]:
    """(task, checksum of its rows) of what records have of this measurement already."""
    known = {t.name: t for t in tasks}
    return {
        (score["task"], score["rows_sha256"])
        for record in read_records(store)
        if record["kind"] == ROW_RECORD
        and record["after"] == after.directory
        and record["options"] == wanted
        and _same_code(record, outside)
        for score in record["scores"]
        if score["task"] in known and rules.measured(record, known[score["task"]])
    }


def _same_code(record: Mapping[str, Any], outside: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a record's scores from outside were measured with the code that is here; what is not here cannot differ."""
    then = record.get(KEY, {})
    return all(then[n]["origin"]["sha256"] == now["origin"]["sha256"] for n, now in outside.items() if n in then)


def tasks_of_row(
    session: Session,
    store: MemoryReader,
    after: TaskManifest,
    tasks: Sequence[Task],
    options: EvaluateConfig,
    last: bool | None = None,
) -> list[Task]:
    """The tasks that are scored after a commit: the cells of R that `evaluate.cells` and `evaluate.unseen` ask for.

    A task that is retired by then has no cell.

    Args:
        session: reports that a whole row is scored where only the ends of R are wanted.
        store: the memory.
        after: the commit.
        tasks: of the stream or of the memory.
        options: `evaluate`.
        last: whether the stream ends with this commit; None: it has no known end, so the row is the last one so far.
    """
    known = {name for m in store.lineage() if m.index <= after.index for name in m.members}
    gone = retired(store, after)
    if options.cells == "ends" and last is None and WHOLE not in session.said:
        session.progress.say(WHOLE)
        session.said.add(WHOLE)
    if options.cells == "ends" and last is False:
        known = set(after.members)
    return [task for task in tasks if (options.unseen or task.name in known) and task.name not in gone]
