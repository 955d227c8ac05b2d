"""From a log to a file of rows: read, select, judge, redact, write. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lifealign.core.errors import ConfigError, DataError
from lifealign.core.files import keep_apart, replace_file, writing
from lifealign.core.progress import NullProgress, Progress
from lifealign.data.collecting import presidio
from lifealign.data.collecting.log import read_log
from lifealign.data.collecting.parts import Given, Record, mapping_of
from lifealign.data.collecting.redaction import Redacted, Redactor, redact
from lifealign.data.collecting.report import SUFFIX, Report
from lifealign.data.collecting.selecting import Selection
from lifealign.data.collecting.tools import ABOUT, SERVED, TIMES, tool_of
from lifealign.data.collecting.verdicts import settle_scales, verdict_of
from lifealign.data.tasks import Row
from lifealign.data.turns import UnusableRowError, is_none_given
from lifealign.data.unread import describe

LOOKED_AT = 500
"""Rows that are looked through where nothing is redacted: a row takes some 20 ms."""
NO_FEEDBACK = "neither a verdict nor an edit"
LIKED_AND_EDITED = "an edit of an answer with a thumb up"
Judged = tuple[int, Given, str | None]
"""Number of a record, an answer in it, and why it may not be used, if it may not."""


@dataclass(frozen=True)
class Options:
    """How a log is read.

    Attributes:
        selection: which records may be used.
        feedback: field, score or question with the verdict; None: by the known names.
        good_from: the least number that is a thumb up; None: by the numbers of the file.
        bad_to: the largest number that is a thumb down; None: every number below `good_from`.
    """

    selection: Selection = field(default_factory=Selection)
    feedback: str | None = None
    good_from: float | None = None
    bad_to: float | None = None

    def __post_init__(self) -> None:
        if self.bad_to is not None and (self.good_from is None or self.bad_to >= self.good_from):
            good = "is not given" if self.good_from is None else f"is {self.good_from:g}"
            raise ConfigError(f"--bad-to {self.bad_to:g} must be below --good-from, which {good}")


def check_target(out: Path, source: str, force: bool) -> None:
    """Refuse a file that cannot take the rows, before anything is read.

    Raises:
        ConfigError: it is not a jsonl file, is the log, or is there already.
    """
    if out.suffix.lower() != ".jsonl":
        raise ConfigError(f"--out {out}: the rows are written as JSONL; give a name that ends in .jsonl")
    keep_apart(out, Path(source))
    there = [path for path in (out, beside(out)) if path.exists()]
    if there and not force:
        raise ConfigError(f"{there[0]}: is there already; give another --out, or --force to overwrite it")


def beside(out: Path) -> Path:
    """The report of a file of rows."""
    return out.with_name(out.name + SUFFIX)


def collect(
    source: str,
    out: Path,
    options: Options,
    redactor: Redactor | None = None,
    progress: Progress | None = None,
) -> Report:
    """Write the judged answers of a log as rows, with a report beside them. Both files are written whole or not at all.

    Args:
        source: the log.
        out: the file for the rows; overwritten.
        options: how the log is read.
        redactor: removes personal data; None: it is only looked for in some rows, if Presidio is installed.
        progress: shows how far the redaction is; None: nothing is shown.

    Raises:
        ConfigError: the log has no field of the consent that is asked for.
        DataError: the log cannot be read, its numbers have no clear scale, or no row is left (lists the reasons).
        StoreError: a file cannot be written.
    """
    log = read_log(source)
    report = Report(source, log.sha256, len(log.records) + sum(map(len, log.bad.values())))
    report.left_out = {reason: list(numbers) for reason, numbers in log.bad.items()}
    report.selection = options.selection.to_json()
    found = list(_judged(log.records, options, report))
    rows = _rows(_latest(found, report), source, options, report)
    rows = _without_personal_data(rows, redactor, report, progress or NullProgress())
    if not rows:
        reasons = "".join(f"\n  {line}" for line in report.reasons())
        raise DataError(f"{source}: no row to collect from {report.read} records{':' if reasons else ''}{reasons}")
    for _, row in rows:
        report.kinds[row.kind] = report.kinds.get(row.kind, 0) + 1
    _write(out, [row for _, row in rows], report)
    return report


def _judged(records: Sequence[tuple[int, Record]], options: Options, report: Report) -> Iterator[Judged]:
    """The answers of the wanted models and times, with the number of their record and why they may not be used."""
    consent = options.selection.consent
    if consent is not None and records and all(consent.found(record) is None for _, record in records):
        names = ", ".join(dict.fromkeys(str(name) for _, record in records for name in record))
        raise ConfigError(f"--consent {consent}: no record has the field {consent.field!r}; fields found: {names}")
    unread: dict[str, list[object]] = {}
    for number, record in records:
        tool = tool_of(record)
        if tool is None:
            report.left_out.setdefault("its fields are those of no known tool", []).append(number)
            continue
        report.tools[tool.title] = report.tools.get(tool.title, 0) + 1
        refused = options.selection.refused(record)
        try:
            given = list(tool.read(record, options.feedback))
        except UnusableRowError as fault:
            if refused is None:
                report.left_out.setdefault(str(fault), []).append(number)
            else:
                report.pass_over(refused)
            continue
        if refused is None:
            _note_unread(record, given, consent.field if consent is not None else "", unread, report)
        for one in given:
            if reason := options.selection.outside(one):
                report.pass_over(reason)
            else:
                yield number, one, refused
    report.unread |= {name: describe(name, values) for name, values in unread.items()}


def _note_unread(
    record: Record, given: Sequence[Given], agreed: str, unread: dict[str, list[object]], report: Report
) -> None:
    read = {name for one in given for name in one.read} | {"source", agreed, agreed.partition(".")[0]}
    report.unread |= {name: "not a person's verdict, by its name" for one in given for name in one.unread}
    about = mapping_of(record.get("metadata")) or {}
    read |= {f"metadata.{name}" for name in (*ABOUT, *TIMES, *SERVED, agreed)} | ({"metadata"} if about else set())
    fields = [*record.items(), *((f"metadata.{name}", value) for name, value in about.items())]
    for name, value in fields:
        if name not in read and not is_none_given(value):
            unread.setdefault(str(name), []).append(value)


def _latest(found: Sequence[Judged], report: Report) -> list[tuple[int, Given]]:
    """The answers that may be used, each with what was said of it last.

    A later record of the same id and answer replaces an earlier one, also where it takes the consent back.
    """
    last: dict[tuple[object, ...], int] = {}
    for place, (_, one, _) in enumerate(found):
        if one.id and (one.votes or one.better):
            last[one.id, one.prompt, one.answer] = place
    kept = []
    for place, (number, one, refused) in enumerate(found):
        later = last.get((one.id, one.prompt, one.answer), place) > place
        if refused is not None:
            report.pass_over(refused)
        elif later and (one.votes or one.better):
            report.left_out.setdefault("replaced by a later verdict on the same answer", []).append(number)
        else:
            kept.append((number, one))
    return kept


def _rows(found: Sequence[tuple[int, Given]], source: str, options: Options, report: Report) -> list[tuple[int, Row]]:
    scales = settle_scales([one.votes for _, one in found], source, options.good_from, options.bad_to)
    report.scales = [scale.describe(name, numbers) for name, (scale, numbers) in scales.items()]
    rows = []
    for number, one in found:
        try:
            verdict = verdict_of(one.votes, scales)
            row = _row(one, verdict, f"{Path(source).name}:{number}")
        except UnusableRowError as fault:
            report.left_out.setdefault(str(fault), []).append(number)
            continue
        if row is None:
            report.pass_over(NO_FEEDBACK)
            continue
        rows.append((number, row))
        if row.kind == "pair" and verdict == "up":
            report.doubtful.setdefault(LIKED_AND_EDITED, []).append(number)
        if row.kind == "desirable" and one.doubt is not None:
            report.doubtful.setdefault(one.doubt, []).append(number)
    return rows


def _row(one: Given, verdict: str | None, source: str) -> Row | None:
    """The row of an answer; None if nobody said anything of it.

    Raises:
        UnusableRowError: somebody did, and it cannot be used; gives the reason.
    """
    better, answer = one.better if one.better.strip() else "", one.answer if one.answer.strip() else ""
    edited = bool(better) and better.strip() != answer.strip()
    if not edited and verdict is None:
        if better:
            raise UnusableRowError("the edit is the answer itself, without a verdict")
        return None
    if not one.prompt or not one.prompt[-1].content.strip():
        raise UnusableRowError("empty prompt")
    if one.prompt[-1].role != "user":
        raise UnusableRowError("prompt does not end with a user turn")
    if edited:
        return Row(one.prompt, better, answer, source, "pair" if answer else "demonstration")
    if not answer:
        raise UnusableRowError("a verdict without an answer")
    if verdict == "up":
        return Row(one.prompt, answer, "", source, "desirable")
    return Row(one.prompt, "", answer, source, "undesirable")


def _without_personal_data(
    rows: Sequence[tuple[int, Row]], redactor: Redactor | None, report: Report, progress: Progress
) -> list[tuple[int, Row]]:
    if redactor is None:
        if presidio.installed():
            report.seen = Redacted()
            looking = presidio.Presidio(presidio.LOOKED_FOR)
            report.looked_at = min(len(rows), LOOKED_AT)
            for number, row in rows[:LOOKED_AT]:
                redact(row, number, looking, report.seen)
        return list(rows)
    report.redaction, report.not_found = redactor.about, tuple(redactor.not_found)
    kept = []
    with progress.stage("redaction", len(rows), "rows") as stage:
        for number, row in rows:
            changed = redact(row, number, redactor, report.removed)
            stage.advance()
            if changed.kind == "pair" and changed.chosen.strip() == changed.rejected.strip():
                report.left_out.setdefault("the answers are equal without personal data", []).append(number)
            else:
                kept.append((number, changed))
    return kept


def _write(out: Path, rows: Sequence[Row], report: Report) -> None:
    """Write the report and the rows; the report is first, so that rows are never there without one."""
    data = "".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows).encode()
    report.rows = {"file": out.name, "sha256": hashlib.sha256(data).hexdigest(), "count": len(rows)}
    text = json.dumps(report.to_json(), ensure_ascii=False, indent=2) + "\n"
    new = not beside(out).exists()
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(beside(out), text.encode())
        try:
            replace_file(out, data)
        except BaseException:
            if new:
                with suppress(OSError):
                    beside(out).unlink()
            raise
