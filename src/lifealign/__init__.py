"""lifealign: keep a language model aligned for life.

The names below are the public API. They are loaded when first used: importing the package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lifealign.core.version import __version__ as __version__

if TYPE_CHECKING:
    from lifealign.core.config import RunConfig, load_config
    from lifealign.core.errors import UserError
    from lifealign.core.progress import make_progress
    from lifealign.data.answers import AnswerRecord, read_answers, write_answers
    from lifealign.data.formats import register_format
    from lifealign.data.load import load_stream, task_from_rows
    from lifealign.data.suites.rules import register_checker
    from lifealign.data.tasks import Message, Row, Task, TaskStream
    from lifealign.evaluation.catalog import register_score, register_text_metric
    from lifealign.evaluation.drift import register_measure
    from lifealign.memory.answering import Asked
    from lifealign.memory.api import Memory, run_stream
    from lifealign.memory.drifting import Drift, DriftAsked
    from lifealign.memory.outcomes import Composition, Evaluation, Related, TaskResult
    from lifealign.model.decoding import Decoder, register_decoder
    from lifealign.strategies import register_strategy
    from lifealign.strategies.configure import read_config
    from lifealign.studies.report.frame import load_study
    from lifealign.training.losses import register_loss
    from lifealign.training.selectors import register_selector
    from lifealign.training.sft_losses import register_sft_loss
    from lifealign.training.strategy import Strategy

__all__ = [
    "AnswerRecord",
    "Asked",
    "Composition",
    "Decoder",
    "Drift",
    "DriftAsked",
    "Evaluation",
    "Memory",
    "Message",
    "Related",
    "Row",
    "RunConfig",
    "Strategy",
    "Task",
    "TaskResult",
    "TaskStream",
    "UserError",
    "load_config",
    "load_stream",
    "load_study",
    "make_progress",
    "read_answers",
    "read_config",
    "register_checker",
    "register_decoder",
    "register_format",
    "register_loss",
    "register_measure",
    "register_score",
    "register_selector",
    "register_sft_loss",
    "register_strategy",
    "register_text_metric",
    "run_stream",
    "task_from_rows",
    "write_answers",
]

_HOMES = {
    "core.config": ("RunConfig", "load_config"),
    "core.errors": ("UserError",),
    "core.progress": ("make_progress",),
    "data.answers": ("AnswerRecord", "read_answers", "write_answers"),
    "data.load": ("load_stream", "task_from_rows"),
    "data.tasks": ("Message", "Row", "Task", "TaskStream"),
    "memory.answering": ("Asked",),
    "memory.api": ("Memory", "run_stream"),
    "memory.drifting": ("Drift", "DriftAsked"),
    "memory.outcomes": ("Composition", "Evaluation", "Related", "TaskResult"),
    "model.decoding": ("Decoder", "register_decoder"),
    "data.formats": ("register_format",),
    "data.suites.rules": ("register_checker",),
    "evaluation.catalog": ("register_score", "register_text_metric"),
    "evaluation.drift": ("register_measure",),
    "strategies": ("register_strategy",),
    "strategies.configure": ("read_config",),
    "studies.report.frame": ("load_study",),
    "training.losses": ("register_loss",),
    "training.selectors": ("register_selector",),
    "training.sft_losses": ("register_sft_loss",),
    "training.strategy": ("Strategy",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"lifealign.{module}"), name)
    raise AttributeError(f"module 'lifealign' has no attribute {name!r}")
