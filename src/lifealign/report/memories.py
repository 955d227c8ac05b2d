"""Report of one or more memories: an HTML page that needs no network, the results as JSON, and the scores as CSV.

Everything is computed from plain values (see `build_results`), so a report can be made again from results.json alone:
no model, no memory, no torch. The same input gives the same bytes. The layout is in report.html.j2, the content in
`report.views`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lifealign.core.files import replace_file, writing
from lifealign.core.json_codec import plain
from lifealign.core.version import __version__
from lifealign.report import views as report_views
from lifealign.report.render import limits, run_labels, template

CSV_COLUMNS = ("method", "seed", "metric", "stage", "task", "value", "low", "high")
BEFORE = "before"
"""Stage, in the CSV, of the scores before any task was learnt."""
GUARD = "guard"
"""Task, in the CSV, of the scores of general ability, which no task trains on."""


def build_results(
    runs: Sequence[Mapping[str, Any]],
    title: str = "lifealign",
    created: str | None = None,
    answers: Mapping[str, Any] | None = None,
    differences: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The document from which `render_html` and results.json are made.

    Args:
        runs: as `Memory.results` gives them; of their keys, only `method` is required.
        title: heading of the page.
        created: a date to show. None by default, so that the same runs give the same bytes.
        answers: from `answers.summary`, for the link to the transcript browser; None: no link.
        differences: between runs, as `Memory.beside` gives them; without any, no value is marked as best.

    Returns:
        Plain JSON values; a number that is not finite is None (a missing score is not zero).
    """
    return {
        "title": title,
        "created": created,
        "lifealign_version": __version__,
        "runs": [plain(run) for run in runs],
        **({} if answers is None else {"answers": plain(answers)}),
        **({"differences": plain(differences)} if differences else {}),
    }


def render_html(results: Mapping[str, Any]) -> str:
    """One self-contained page: no other file and no network; all text of the results is escaped."""
    return template("report.html.j2").render(report_views.page(plain(results)))


def write_report(results: Mapping[str, Any], directory: str | Path) -> list[Path]:
    """Write report.html, results.json and scores.csv; each is replaced as a whole.

    Args:
        results: of `build_results`.
        directory: created if missing.

    Returns:
        The files written.

    Raises:
        StoreError: the operating system refused a write.
    """
    target = Path(directory)
    contents = {
        "report.html": render_html(results),
        "results.json": json.dumps(plain(results), indent=2, allow_nan=False) + "\n",
        "scores.csv": scores_csv(results),
    }
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            replace_file(target / name, text.encode("utf-8"))
    return [target / name for name in contents]


def scores_csv(results: Mapping[str, Any]) -> str:
    """Every measured cell of every score matrix, one per line; columns are `CSV_COLUMNS`.

    `stage` is the task after which it was scored, or `BEFORE`; the guard's scores have the task `GUARD`. Cells that
    were not measured have no line. If runs agree in method and seed, the column `method` tells them apart.
    """
    clean = plain(results)
    runs = clean["runs"]
    keys = [(run.get("method"), run.get("seed")) for run in runs]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for run, key, label in zip(runs, keys, run_labels(runs), strict=True):
        method = run["method"] if keys.count(key) == 1 else label
        for score, scores in run.get("scores", {}).items():
            for cell in _cells(run, scores):
                writer.writerow((method, run.get("seed"), score, *("" if v is None else v for v in cell)))
        for score, column in run.get("guard", {}).items():
            for stage, cell in zip((BEFORE, *run["tasks"]), (column["before"], *column["stages"]), strict=True):
                if cell["value"] is not None:
                    limits = ("" if cell[key] is None else cell[key] for key in ("low", "high"))
                    writer.writerow((method, run.get("seed"), score, stage, GUARD, cell["value"], *limits))
    return out.getvalue()


def _cells(run: Mapping[str, Any], scores: Mapping[str, Any]) -> Iterable[tuple[Any, ...]]:
    tasks = run["tasks"]
    for task, value in zip(tasks, scores.get("before") or [], strict=False):
        if value is not None:
            yield BEFORE, task, value, None, None
    for k, row in enumerate(scores["R"]):
        for j, value in enumerate(row):
            if value is not None:
                yield tasks[k], tasks[j], value, *limits(scores, k, j)
