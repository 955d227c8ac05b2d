"""Kinds of rows in a task: what a strategy refuses, and what is said of them and kept with the commit. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.data.tasks import FEEDBACK_KINDS, ROW_KINDS, Row, RowKind, Task

if TYPE_CHECKING:
    from lifealign.training.feedback import Feedback
    from lifealign.training.strategy import Strategy

NAMES: dict[RowKind, tuple[str, str]] = {
    "pair": ("pair", "pairs"),
    "desirable": ("desirable answer", "desirable answers"),
    "undesirable": ("undesirable answer", "undesirable answers"),
    "demonstration": ("demonstration", "demonstrations"),
}
"""Kind -> name of one such row, and of several."""


def check_kinds(strategy: Strategy, config: RunConfig, tasks: Sequence[Task]) -> None:
    """Refuse training rows of a kind that the strategy, or its loss, cannot learn from.

    Raises:
        ConfigError: names the task, the kind, the number of its rows, the first of them, and what to change.
    """
    for task in tasks:
        for kind, rows in _by_kind(task.train).items():
            if kind not in strategy.learns:
                reason = f"strategy {config.strategy.name!r} learns from {_listed(strategy.learns)} alone"
                remedy = "choose another strategy, such as replay or lifealign"
            elif kind in FEEDBACK_KINDS and (per_token := _per_token(strategy)):
                options = strategy.objective.config
                reason = f"{options.unpaired_loss} takes beta per nat of an answer, and {per_token} takes it per nat of a token"
                remedy = "choose another loss, such as dpo"
            else:
                continue
            raise ConfigError(
                f"task {task.name!r}: {reason}, but {len(rows)} of its {len(task.train)} training rows "
                f"{'is of kind' if len(rows) == 1 else 'are of kind'} {kind} (first: {rows[0].source}); "
                f"{remedy}, or leave these rows out"
            )


def _per_token(strategy: Strategy) -> str | None:
    """The setting by which beta is in another unit than feedback needs."""
    options = strategy.objective.config
    if options.loss in ("simpo", "aft_bc", "aft_rank"):
        return f"loss {options.loss}"
    return "length_normalised" if options.length_normalised else None


def _by_kind(rows: Sequence[Row]) -> dict[RowKind, list[Row]]:
    found: dict[RowKind, list[Row]] = {kind: [] for kind in ROW_KINDS}
    for row in rows:
        found[row.kind].append(row)
    return {kind: own for kind, own in found.items() if own}


def _counted(kind: RowKind, count: int) -> str:
    return f"{count} {NAMES[kind][count != 1]}"


def _listed(kinds: Sequence[RowKind]) -> str:
    return ", ".join(NAMES[kind][1] for kind in kinds)


def kinds_document(rows: Sequence[Row], feedback: Feedback, strategy: Strategy) -> dict[str, Any]:
    """What a commit keeps about rows that are not plain pairs; empty if all are.

    Args:
        rows: that were trained on, replay included.
        feedback: weights of their labels.
        strategy: that learnt them.
    """
    counts = Counter(row.kind for row in rows)
    options = strategy.objective.config
    found: dict[str, Any] = {}
    if set(counts) - {"pair"}:
        found["kinds"] = {kind: counts[kind] for kind in ROW_KINDS if counts[kind]}
    if any(counts[kind] for kind in FEEDBACK_KINDS):
        found["feedback"] = {"loss": options.unpaired_loss, "weights": feedback.weights._asdict()}
    if margins := sum(row.margin is not None for row in rows):
        found["margins"] = {"rows": margins, "scale": options.margin_scale}
    return found


def kinds_lines(document: dict[str, Any], config: RunConfig) -> list[str]:
    """`kinds_document` for people."""
    lines = []
    if kinds := document.get("kinds"):
        lines.append(", ".join(_counted(kind, count) for kind, count in kinds.items()))
        if config.sft.epochs and kinds.get("undesirable"):
            lines.append("the SFT stage trains on good answers, so it leaves the undesirable ones out")
    if feedback := document.get("feedback"):
        up, down = feedback["weights"]["desirable"], feedback["weights"]["undesirable"]
        lines.append(
            f"feedback is learnt by {feedback['loss']}; weights {up:.3g} (desirable), {down:.3g} (undesirable)"
        )
    if margins := document.get("margins"):
        rows = f"{margins['rows']} {'row has' if margins['rows'] == 1 else 'rows have'} a margin"
        if margins["scale"]:
            lines.append(f"{rows}, of which strategy.margin_scale={margins['scale']:g} asks for that part")
        else:
            lines.append(f"{rows}, which is not used; set strategy.margin_scale (loss dpo or hinge) to use it")
    return lines
