"""Report of a study: an HTML page that needs no network, LaTeX and Markdown for each table, two CSV files, and figures.

Everything is made from results.json alone: no model, no memory, no torch. The same input gives the same bytes. The
content comes from `tables` and `views`, the layout from study.html.j2.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lifealign.core.documents import check
from lifealign.core.errors import StoreError
from lifealign.core.files import read_bytes, replace_file, writing
from lifealign.core.json_codec import decode_json, plain
from lifealign.evaluation import catalog
from lifealign.evaluation.metrics import Interval
from lifealign.evaluation.outside import recall
from lifealign.report.memories import BEFORE
from lifealign.report.render import template
from lifealign.studies.comparison import completed
from lifealign.studies.design import power_line
from lifealign.studies.report import charts, overview, views
from lifealign.studies.report.cells import Cell, Json, Table, order_label
from lifealign.studies.report.form import Form, narrowed, own_method
from lifealign.studies.report.latex import latex
from lifealign.studies.report.lines import groups, scores_of
from lifealign.studies.report.markdown import markdown
from lifealign.studies.report.tables import all_tables, main_table, short_table
from lifealign.studies.schema import Results

RUN_COLUMNS = ("run", "method", "order", "model", "seed", "status", "metric", "quantity", "stage", "task", "value")
TABLE_COLUMNS = ("method", "order", "model", "seeds", "metric", "summary", "mean", "low", "high")
DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high", "p", "p_holm")
PAGE = "study.html"
_ABSENT: dict[str, Any] = {
    "note": None,
    "lifealign_version": None,
    "selected_on": None,
    "reported_on": None,
    "orders": {},
}


def write_study_report(results: Mapping[str, Any], directory: str | Path, form: Form | None = None) -> list[Path]:
    """Write study.html, tables/*.tex and *.md, results.csv, table.csv and figures/; each file is replaced as a whole.

    Args:
        results: a study's results.json.
        directory: created if missing.
        form: what to show; None: everything.

    Returns:
        The files written; no figures without matplotlib (extra `figures`).

    Raises:
        ConfigError: the form names what the results do not have.
        StoreError: the operating system refused a write, or `results` is not a study's results.
    """
    clean = checked(results) if form is None else narrowed(checked(results), form)
    tables = all_tables(clean)
    contents = {PAGE: _html(clean, tables).encode(), "results.csv": runs_csv(clean).encode()}
    contents["table.csv"] = table_csv(clean).encode()
    for table in (t for section in tables.values() for t in section):
        contents[f"tables/{table.name}.tex"] = latex(table).encode()
        contents[f"tables/{table.name}.md"] = markdown(table).encode()
    if find_spec("matplotlib"):
        from lifealign.studies.report.figures import figures

        contents |= {f"figures/{name}": data for name, data in figures(clean)}
    target = Path(directory)
    with writing(target):
        for name, data in contents.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            replace_file(target / name, data)
    return [target / name for name in contents]


def read_results(path: Path) -> dict[str, Any]:
    """Read a study's results.json.

    Raises:
        StoreError: the file cannot be read, or is not a study's results.
    """
    return checked(decode_json(path, read_bytes(path)), str(path))


def checked(results: Any, where: str = "results") -> dict[str, Any]:
    """Plain values of a study's results; numbers that are not finite become None.

    Raises:
        StoreError: it is something else, such as the results.json of a report of memories; names the field.
    """
    if not isinstance(results, Mapping) or not isinstance(results.get("study"), str) or "runs" not in results:
        raise StoreError(f"{where}: not a study's results; expected a JSON object with 'study', 'runs' and 'table'")
    clean: dict[str, Any] = plain(results)
    check(Results, clean, where)
    recall([clean])
    return _cut({**_ABSENT, **completed(clean)})


def _cut(results: dict[str, Any]) -> dict[str, Any]:
    """The results with intervals of levels cut at what their score can reach, as earlier programs did not."""

    def cut(score: str, key: str, stored: Any) -> Any:
        if key not in catalog.summaries() or not stored or stored.get("low") is None or stored.get("high") is None:
            return stored
        inside = catalog.within(score, key, Interval(*(stored[end] for end in ("mean", "low", "high"))))
        return {**stored, "low": inside.low, "high": inside.high}

    table = [
        {
            **line,
            "metrics": {
                score: {key: cut(score, key, stored) for key, stored in held.items()}
                for score, held in (line.get("metrics") or {}).items()
            },
        }
        for line in results.get("table") or ()
    ]
    return {**results, **({"table": table} if "table" in results else {})}


# --- the page ---------------------------------------------------------------------------------------------------------


def render_html(results: Json) -> str:
    """One self-contained page: no other file and no network; all text of the results is escaped."""
    clean = checked(results)
    return _html(clean, all_tables(clean))


def _html(results: Json, tables: Mapping[str, Sequence[Table]]) -> str:
    return template("study.html.j2").render(page(results, tables))


def page(results: Json, tables: Mapping[str, Sequence[Table]]) -> dict[str, Any]:
    """Everything the template reads; `tables` is `all_tables` of the results."""
    runs, comparable = results["runs"], groups(results)
    choices = {
        "score": scores_of(results),
        "order": _names(runs, "order", (g.order for g in comparable)),
        "model": _names(runs, "model", (g.model for g in comparable)),
        "method": _names(runs, "method", _methods(results)),
    }
    return {
        "results": results,
        "order_label": order_label,
        "choices": choices,
        "labels": {score: catalog.score(score).title for score in choices["score"]},
        "lower": [score for score in choices["score"] if catalog.score(score).better == "lower"],
        "states": {state: sum(run.get("status") == state for run in runs) for state in ("done", "failed", "pending")},
        "seeds": sorted({run["seed"] for run in runs if run.get("seed") is not None}),
        "tables": tables,
        "power": power_line(results["power"]) if results.get("power") else None,
        "verdicts": overview.sentences(results),
        "ranks": [{**view, "chart": charts.rank_chart(view)} for view in overview.ranks(results)],
        "own": own_method(results),
        "chosen": any(results.get("selection", {}).values()),
        "heatmaps": views.heatmaps(results),
        "bars": [charts.dots(view) for view in views.bars(results)],
        "pareto": [charts.pareto(view) for view in views.pareto(results)],
        "sensitivity": [charts.sensitivity(view) for view in views.sensitivity(results)],
    }


def _methods(results: Json) -> list[str]:
    return [*(line["method"] for line in results.get("table") or ()), *(results.get("interference") or ())]


def _names(runs: Sequence[Json], key: str, more: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys([*(str(run.get(key)) for run in runs), *map(str, more)]))


# --- CSV --------------------------------------------------------------------------------------------------------------


def runs_csv(results: Json) -> str:
    """Every measured number of every run, one per line; columns are `RUN_COLUMNS`. A run without scores has one line.

    `quantity` is R (a cell of the score matrix; `stage` is the task after which it was scored, or "before") or the name
    of a summary.
    """
    rows: list[tuple[Any, ...]] = []
    for run in results["runs"]:
        first = tuple(run.get(key) for key in ("id", "method", "order", "model", "seed", "status"))
        measured = [(*first, *rest) for rest in _numbers(run)]
        rows += measured or [(*first, *[None] * 5)]
    return _csv(RUN_COLUMNS, rows)


def _numbers(run: Json) -> Iterable[tuple[Any, ...]]:
    tasks = run.get("tasks") or []
    for score, scores in (run.get("scores") or {}).items():
        stages = [(BEFORE, scores.get("before") or []), *zip(tasks, scores["R"], strict=False)]
        for stage, row in stages:
            yield from ((score, "R", stage, t, v) for t, v in zip(tasks, row, strict=False) if v is not None)
    for score, summary in (run.get("summary") or {}).items():
        yield from ((score, key, None, None, value) for key, value in summary.items() if value is not None)


def table_csv(results: Json) -> str:
    """The study's table: means over seeds with intervals, and paired differences; columns are `TABLE_COLUMNS` and more."""
    rows = []
    for line in results.get("table") or ():
        first = (line["method"], line["order"], line.get("model"), " ".join(map(str, line.get("seeds") or ())))
        for score, summaries in (line.get("metrics") or {}).items():
            for key, stored in summaries.items():
                if stored.get("mean") is not None:
                    other = ((line.get("difference") or {}).get(score) or {}).get(key) or {}
                    ends = [part.get(side) for part in (stored, other) for side in ("mean", "low", "high")]
                    rows.append((*first, score, key, *ends, other.get("p"), other.get("holm")))
    return _csv((*TABLE_COLUMNS, *DIFFERENCE_COLUMNS), rows)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return out.getvalue()


def lines(results: Json, written: Sequence[Path], form: Form | None = None) -> list[str]:
    """Lines that the command prints: the counts of runs, the short tables, where the page is."""
    clean = checked(results) if form is None else narrowed(checked(results), form)
    states = [str(run.get("status")) for run in clean["runs"]]
    said = [f"study {clean['study']}: " + ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))]
    for table in _printed(clean):
        said += ["", *_terminal(table)]
    page_file = next(path for path in written if path.name == PAGE)
    said += ["", f"report: {page_file}"]
    if not any(path.suffix == ".png" for path in written):
        said.append("no figures: nothing to draw, or matplotlib is not installed; pip install 'lifealign[figures]'")
    return said


def _printed(results: Json) -> list[Table]:
    """The tables for the terminal: that of the first score in every order, and on every model."""
    comparable, scores = groups(results), scores_of(results)
    first = [t for group in comparable for score in scores[:1] if (t := short_table(results, group, score))]
    return first or [main_table(results, group, scores) for group in comparable]


def _terminal(table: Table) -> list[str]:
    """A table for the terminal, a block for each heading above its columns."""
    said = [table.title]
    for label in dict.fromkeys(column.above for column in table.columns):
        own = [i for i, column in enumerate(table.columns) if column.above == label]
        grid = [[label, *(table.columns[i].label for i in own)]]
        grid += [[_marked(name, table.marks(name)), *(_in_words(cells[i]) for i in own)] for name, cells in table.rows]
        widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
        said += ["  ".join(f"{v:<{w}}" for v, w in zip(row, widths, strict=True)).rstrip() for row in grid]
    return [*said, *(f"({letter}) {remark}" for remark, letter in table.footnotes().items())]


def _marked(name: str, marks: str) -> str:
    return f"{name} ({marks})" if marks else name


def _in_words(cell: Cell) -> str:
    if cell.text is None:
        return "not measured"
    return (
        f"{cell.text} [{cell.low}, {cell.high}]"
        if cell.low
        else f"{cell.text} ± {cell.spread}"
        if cell.spread
        else cell.text
    )
