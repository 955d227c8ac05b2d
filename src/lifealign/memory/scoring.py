"""Score rows of R, each once, and append them to the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lifealign.core.config import EvaluateConfig, RunConfig
from lifealign.core.errors import StoreError
from lifealign.data.suites.rules import Rule
from lifealign.data.tasks import Row, Task, rows_sha256
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
from lifealign.store.layout import ONE_ADAPTER, ROW_RECORD, RULES, WARNINGS
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader, place
from lifealign.store.retired import retired
from lifealign.store.writer import MemoryStore

WHOLE = "evaluate.cells=ends: any task may be the last one here, so its whole row of R is scored"
"""Said once where tasks are learnt one by one."""


def score_tasks(
    session: Session,
    store: MemoryStore,
    after: TaskManifest,
    tasks: Sequence[Task],
    config: RunConfig,
    one_adapter: bool = False,
) -> Evaluation:
    """Score `tasks` and the guard as they were after `after`, unless recorded already; see `Memory.evaluate`.

    The guard is of the memory's own policy, so that it is left out for the one adapter.
    """
    with locked_if_allowed(session, store) as refused:
        score_row(session, store, after, tasks, config, refused, one_adapter)
        for at in () if one_adapter else dict.fromkeys((store.lineage()[0].directory, after.directory)):
            score_guard(session, store, store.find(at), config.guard, refused)
    table = read_scores(store, config.evaluate.split, one_adapter)
    cells = table.cells(after.directory, [t.name for t in tasks], config.evaluate.bootstrap)
    results = run_results(store, table)
    return Evaluation(
        after.directory,
        config.evaluate.split,
        cells,
        with_guard(results),
        results.get("guard", {}),
        results.get(WARNINGS, ()),
        one_adapter,
    )


def score_row(
    session: Session,
    store: MemoryStore,
    after: TaskManifest,
    tasks: Sequence[Task],
    config: RunConfig,
    refused: StoreError | None = None,
    one_adapter: bool = False,
) -> list[TaskScores]:
    """Score `tasks` with the weights as they were after `after` and append the record, unless it exists already.

    Args:
        session: of the memory.
        store: the memory.
        after: the commit.
        tasks: with the rows to score.
        config: of the memory, with what to measure.
        refused: why nothing can be written; None: it can.
        one_adapter: score the one set of weights that an export of a routed memory holds.

    Raises:
        StoreError: `refused`, if there is something to score and nothing can be written.
    """
    options = config.evaluate
    wanted = _wanted(options) | ({ONE_ADAPTER: True} if one_adapter else {})
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
    (session.load_one if one_adapter else session.load)(store, after)
    which = f"{place(after)}, one adapter" if one_adapter else place(after)
    scores = [_score(session, task, rows[task.name], rules.of(task), options, which) for task in missing]
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


def _score(
    session: Session, task: Task, rows: Sequence[Row], rule: Rule | None, options: EvaluateConfig, which: str
) -> TaskScores:
    """Scores of one task with the weights that the model holds."""
    found = session.score(
        task.name,
        rows,
        rule,
        generations=options.generations,
        max_new_tokens=options.max_new_tokens,
        title=f"{which}: score {task.name}",
        text_metrics=options.text_metrics,
        names=options.scores,
    )
    return replace(found, rows_sha256=rows_sha256(rows))


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
