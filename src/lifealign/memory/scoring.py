"""Score a row of R, once, and append it to the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lifealign.core.config import RunConfig
from lifealign.data.tasks import Task, rows_sha256
from lifealign.evaluation.answer_scores import require
from lifealign.memory.row_scores import TaskScores
from lifealign.memory.session import Session
from lifealign.store.layout import (
    ROW_RECORD,
)
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.writer import MemoryStore

if TYPE_CHECKING:
    pass


def score_row(
    session: Session, store: MemoryStore, after: TaskManifest, tasks: Sequence[Task], config: RunConfig
) -> list[TaskScores]:
    """Score `tasks` with the weights as they were after `after` and append the record, unless it is there already."""
    options = config.evaluate
    wanted: dict[str, Any] = {"split": options.split, "rows": options.rows, "generations": options.generations}
    if options.generations:
        wanted["max_new_tokens"] = options.max_new_tokens
    if options.text_metrics:
        wanted["text_metrics"] = list(options.text_metrics)
    done = {
        (score["task"], score["rows_sha256"])
        for record in store.evaluations()
        if record["kind"] == ROW_RECORD and record["after"] == after.directory and record["options"] == wanted
        for score in record["scores"]
    }
    rows = {t.name: getattr(t, options.split)[: options.rows] for t in tasks}
    missing = [t for t in tasks if rows[t.name] and (t.name, rows_sha256(rows[t.name])) not in done]
    if not missing:
        return []
    require(options.text_metrics)
    session.load(store, after)
    scores = []
    for task in missing:
        title = f"after {after.name}: score {task.name}"
        score = session.score(
            task.name,
            rows[task.name],
            task.checker,
            generations=options.generations,
            max_new_tokens=options.max_new_tokens,
            title=title,
            text_metrics=options.text_metrics,
        )
        scores.append(replace(score, rows_sha256=rows_sha256(rows[task.name])))
    record = {"kind": ROW_RECORD, "after": after.directory, "options": wanted, "scores": [s.to_json() for s in scores]}
    if session.accelerator.is_main_process:
        store.append_evaluation(record)
    session.accelerator.wait_for_everyone()
    return scores


def learnt(store: MemoryReader, until: TaskManifest) -> set[str]:
    """Names of the tasks learnt up to a commit."""
    return {name for m in store.lineage() if m.index <= until.index for name in m.members}
