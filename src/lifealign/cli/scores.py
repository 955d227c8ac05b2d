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
    """The main scores of memories: R of one, summaries of several; with `out`, also the report's files.

    `browser`: see `answers.browse`.
    """
    from lifealign.evaluation.guard_results import guard_lines
    from lifealign.report.memories import build_results, write_report
    from lifealign.report.terminal import score_matrix_lines, summary_lines

    runs = [memory.results() for memory in memories]
    beside = memories[0].beside(memories[1:]) if memories else []
    results = build_results(runs, answers=browser, differences=beside)
    lines = []
    if len(runs) == 1:
        for score in ("accuracy", *(["pass_rate"] if "pass_rate" in runs[0].get("scores", {}) else [])):
            lines += [*score_matrix_lines(runs[0], score), ""]
    for one in runs:
        lines += [*(guard := guard_lines(one.get("guard", {}))), *([""] if guard else [])]
    lines += summary_lines({**results, "runs": [_main(run) for run in results["runs"]]})
    if out is not None:
        write_report(results, out)
        lines += ["", f"report: {out / 'report.html'}"]
    else:
        lines += ["", f"the page: lifealign report {' '.join(str(memory.path) for memory in memories)} --out DIR"]
    return Reply(results, lines)


def _main(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run with its main scores alone."""
    from lifealign.evaluation.learnt import DETAILS

    shown = [name for name in run.get("scores", {}) if name not in DETAILS] or list(run.get("scores", {}))
    kept = {key: {n: v for n, v in run.get(key, {}).items() if n in shown} for key in ("scores", "summary")}
    return {**run, **kept}
