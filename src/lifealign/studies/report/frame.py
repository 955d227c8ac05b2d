"""A study's results as a table for pandas, one row for each run, score and summary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lifealign.studies.report.write import read_results

if TYPE_CHECKING:
    import pandas

COLUMNS = ("method", "strategy", "order", "model", "seed", "run", "score", "summary", "value")


def load_study(results: str | Path) -> pandas.DataFrame:
    """Summaries of all finished runs of a study, e.g. to draw a figure of your own.

    Args:
        results: the study's results.json, or the folder that holds it.

    Returns:
        A data frame with the columns `COLUMNS`; rates are in percent, and a summary that was not measured has no row.

    Raises:
        StoreError: the file cannot be read, or is not a study's results.
    """
    import pandas

    path = Path(results)
    found = read_results(path / "results.json" if path.is_dir() else path)
    rows = [
        (*(run.get(key) for key in ("method", "strategy", "order", "model", "seed", "id")), score, summary, value)
        for run in found["runs"]
        if run.get("status") == "done"
        for score, summaries in (run.get("summary") or {}).items()
        for summary, value in summaries.items()
        if value is not None
    ]
    return pandas.DataFrame(rows, columns=list(COLUMNS))
