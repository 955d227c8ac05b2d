"""The reply of `run` and `report`: the scores of memories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifealign.core.reply import Reply

if TYPE_CHECKING:
    from lifealign.memory.api import Memory


def report_reply(
    memories: Sequence[Memory], out: Path | None = None, browser: Mapping[str, Any] | None = None
) -> Reply:
    """Score matrices and summaries of memories; with `out`, also the report's files. `browser`: see `answers.browse`."""
    from lifealign.evaluation.guard_results import guard_lines
    from lifealign.report.memories import build_results, write_report
    from lifealign.report.terminal import score_matrix_lines, summary_lines

    runs = [memory.results() for memory in memories]
    beside = memories[0].beside(memories[1:]) if memories else []
    results = build_results(runs, answers=browser, differences=beside)
    lines = []
    for one in runs:
        for score in ("accuracy", *(["pass_rate"] if "pass_rate" in one.get("scores", {}) else [])):
            lines += score_matrix_lines(one, score)
        lines += [*guard_lines(one.get("guard", {})), ""]
    lines += summary_lines(results)
    if out is not None:
        write_report(results, out)
        lines += ["", f"report: {out / 'report.html'}"]
    return Reply(results, lines)
