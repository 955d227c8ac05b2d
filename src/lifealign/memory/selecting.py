"""The training rows of a task that `data.select` keeps; the others are never trained, replayed or counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lifealign.core.config import RunConfig
from lifealign.data.tasks import Task
from lifealign.memory.session import Session
from lifealign.training.selectors import candidates_of, selected


def select_rows(session: Session, group: Sequence[Task], config: RunConfig) -> tuple[Sequence[Task], dict[str, Any]]:
    """The tasks with the kept rows, in their order, and a document on which were kept; no document if all are.

    Features are those of the base model, so what is kept does not depend on what was learnt before.
    """
    options = config.data
    if options.select_share == 1:
        return group, {}
    kept, document = [], {}
    for task in group:
        pairs = session.encoder.encode(task.train, allow_none=True)[0]
        different = {pair.digest: task.train[pair.position] for pair in reversed(pairs)}
        rows = list(reversed(different.values()))
        count = max(1, round(options.select_share * len(rows)))
        given = candidates_of(rows, task.name, config.seed, session.view.row_features)
        chosen = {rows[i].digest for i in selected(options.select, given, count)} if rows else set()
        places = [i for i, row in enumerate(task.train) if row.digest in chosen]
        kept.append(replace(task, train=tuple(task.train[i] for i in places)))
        document[task.name] = {"by": options.select, "of": len(task.train), "rows": [i + 1 for i in places]}
        session.progress.say(f"{task.name}: data.select={options.select} keeps {len(places)} of {len(task.train)} rows")
    return kept, {"selected": document}
