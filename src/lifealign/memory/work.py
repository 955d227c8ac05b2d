"""A group of tasks on its way into a memory: what is known of it, and what its commit keeps of its rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lifealign.core.config import RunConfig
from lifealign.data.tasks import Task
from lifealign.memory.leaks import Leaks
from lifealign.memory.rules import find_rules
from lifealign.model.encoded import EncodingReport
from lifealign.model.encoding import EncodedPair
from lifealign.store.contents import slug
from lifealign.store.layout import RULES
from lifealign.store.reader import MemoryReader
from lifealign.training.feedback import Feedback
from lifealign.training.loop import Loop
from lifealign.training.strategy import PreferenceDataset


@dataclass
class Work:
    """One group of tasks on its way into a memory.

    Attributes:
        group: the tasks, each with its own held-out rows.
        task: the group as one task to train on.
        dataset: rows to train on, replay included.
        pairs: the rows of `dataset` that can be encoded, and behind them those that `feedback.with_others` adds.
        feedback: those of them that people judged.
        kinds: what is kept about rows that are not plain pairs.
        encoding: report on the rows of `dataset`.
        held_out: split -> report on its rows.
        workspace: name of the directory of the checkpoints.
        loop: settings and state shared by all stages.
        leaks: rows that were left out, because another task holds them out.
        selection: which of the tasks' rows were kept, if some were left out (`selecting`).
        reference_seconds: time to compute the reference log-probs; 0 if a checkpoint had them.
        sft_references: the policies that the SFT loss compared with, if it reads any.
    """

    group: Sequence[Task]
    task: Task
    dataset: PreferenceDataset
    pairs: Sequence[EncodedPair]
    feedback: Feedback
    kinds: Mapping[str, Any]
    encoding: EncodingReport
    held_out: Mapping[str, EncodingReport]
    workspace: str
    loop: Loop
    leaks: Leaks
    selection: Mapping[str, Any]
    reference_seconds: float = 0.0
    sft_references: Sequence[str] = ()


def data_document(work: Work) -> dict[str, Any]:
    """A commit's document on the origin and the encoding of its rows."""
    own = {t.name for t in work.group}
    if len(work.group) == 1:
        from_replay = sum(origin not in own for origin in work.dataset.origin)
    else:
        from_replay = len(work.dataset.rows) - len(work.task.train)
    return {
        "reports": {t.name: [r.to_json() for r in t.reports] for t in work.group},
        "requirements": {t.name: t.requirement for t in work.group},
        "encoding": work.encoding.to_json(),
        "encoding_held_out": {split: report.to_json() for split, report in work.held_out.items()},
        "rows": len(work.pairs) - len(work.feedback.others),
        "from_replay": from_replay,
        **work.kinds,
        **work.selection,
        **({"sft_references": list(work.sft_references)} if work.sft_references else {}),
        **work.leaks.document(),
        **({RULES: rules} if (rules := find_rules(work.group).origins) else {}),
    }


def update_between(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The change of the trained tensors that existed before; a method's tensors may grow from task to task."""
    return {n: t - before[n] for n, t in after.items() if n in before and t.shape == before[n].shape}


def workspace_key(store: MemoryReader, task: Task, config: RunConfig, digests: Sequence[str]) -> str:
    """Name of the workspace: checkpoints are reused only for the same rows, requirement, options and starting point."""
    relevant = config.model_dump(mode="json", include={"seed", "model", "lora", "data", "strategy", "sft", "train"})
    parts = [store.head.sha256, task.name, task.requirement, relevant, list(digests)]
    text = json.dumps(parts if task.supersedes is None else [*parts, task.supersedes], sort_keys=True)
    # A plain name as it is, as in workspaces of earlier versions, which a run may go on in.
    name = task.name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", task.name) else slug(task.name)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
