"""lifealign: keep a language model aligned for life.

The names below are the public API. They are loaded when first used: importing the package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lifealign.answering import Asked
    from lifealign.config import RunConfig, load_config
    from lifealign.configure import read_config
    from lifealign.errors import UserError
    from lifealign.memory import Evaluation, Memory, TaskResult
    from lifealign.pipeline import run_stream
    from lifealign.recompose import Composition, Related
    from lifealign.tasks import Message, Row, Task, TaskStream, load_stream, task_from_rows
    from lifealign.transcripts import AnswerRecord, read_answers, write_answers

__version__ = "0.1.0"

__all__ = [
    "AnswerRecord",
    "Asked",
    "Composition",
    "Evaluation",
    "Memory",
    "Message",
    "Related",
    "Row",
    "RunConfig",
    "Task",
    "TaskResult",
    "TaskStream",
    "UserError",
    "load_config",
    "load_stream",
    "read_answers",
    "read_config",
    "run_stream",
    "task_from_rows",
    "write_answers",
]

_HOMES = {
    "answering": ("Asked",),
    "config": ("RunConfig", "load_config"),
    "errors": ("UserError",),
    "memory": ("Evaluation", "Memory", "TaskResult"),
    "configure": ("read_config",),
    "pipeline": ("run_stream",),
    "recompose": ("Composition", "Related"),
    "tasks": ("Message", "Row", "Task", "TaskStream", "load_stream", "task_from_rows"),
    "transcripts": ("AnswerRecord", "read_answers", "write_answers"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"lifealign.{module}"), name)
    raise AttributeError(f"module 'lifealign' has no attribute {name!r}")
