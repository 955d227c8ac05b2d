"""The page of a build: gates, scores and changes of a memory as Markdown, for a job's summary or a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lifealign.evaluation import catalog
from lifealign.evaluation.differences import PointDifference
from lifealign.evaluation.gates import GateResult
from lifealign.evaluation.numbers import limits_text, number


def gate_page(
    title: str,
    evaluation: Mapping[str, Any],
    gates: Sequence[GateResult],
    difference: PointDifference | None = None,
) -> str:
    """Markdown that GitHub and GitLab show; the same input gives the same text.

    Args:
        title: heading, e.g. the memory's path.
        evaluation: `after`, `split` and `tasks` of `Evaluation.to_json`.
        gates: the checked conditions; without any, the page has only scores.
        difference: from the point that the memory was compared with.
    """
    parts = [f"# {_text(title)}", f"After `{evaluation['after']}`, {evaluation['split']} rows."]
    if gates:
        failed = sum(not gate.held for gate in gates)
        verdict = f"**{failed} of {len(gates)} gates failed.**" if failed else f"**All {len(gates)} gates held.**"
        parts += ["## Gates", verdict, _table(("gate", "value", "95% interval", "result"), map(_gate, gates))]
    tasks: Mapping[str, Mapping[str, Any]] = evaluation["tasks"]
    names = list(dict.fromkeys(name for scores in tasks.values() for name in scores))
    rows = ([_text(task), *(_cell(scores.get(name), name) for name in names)] for task, scores in tasks.items())
    parts += ["## Scores", _table(("task", *(catalog.score(name).title for name in names)), rows)]
    if difference is not None:
        parts += [f"## Changes since `{difference.a}`", _changes(difference)]
        parts += [f"{_text(task)}: {_text(why)}." for task, why in difference.missing.items()]
    return "\n\n".join(parts) + "\n"


def _gate(result: GateResult) -> Sequence[str]:
    score, (low, high) = result.gate.score, result.interval
    value = "not measured" if result.value is None else number(result.value, score)
    detail = "; ".join(text for text in (result.detail, result.why) if text)
    verdict = ("held" if result.held else "**failed**") + (" without a value" if result.value is None else "")
    verdict += f" ({_text(detail)})" if detail else ""
    return (f"`{result.gate}`", value, _limits(low, high, score), verdict)


def _changes(difference: PointDifference) -> str:
    rows = (
        (
            _text(task) + (" (learnt in between)" if task in difference.later else ""),
            catalog.score(name).title,
            number(found.a, name),
            number(found.b, name),
            f"{number(found.difference, name)} {_limits(found.low, found.high, name)}",
            "" if found.gained is None else str(len(found.gained)),
            "" if found.lost is None else str(len(found.lost)),
        )
        for task, scores in difference.tasks.items()
        for name, found in scores.items()
    )
    return _table(("task", "score", "then", "now", "change", "rows gained", "rows lost"), rows)


def _cell(cell: Mapping[str, float] | None, score: str) -> str:
    if cell is None:
        return ""
    rows = cell.get("rows")
    count = None if rows is None else int(rows)
    return f"{number(cell['value'], score, count)} {_limits(cell['low'], cell['high'], score, count)}".strip()


def _limits(low: float | None, high: float | None, score: str, rows: int | None = None) -> str:
    text = limits_text(low, high, score, rows)
    return f"[{text.replace(' to ', ', ')}]" if text else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _text(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    for mark in "\\`*_[]<>":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
