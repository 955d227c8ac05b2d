"""What `lifealign collect` did: as lines of text, as the file beside the rows, and as a memory keeps it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifealign.core.errors import DataError
from lifealign.core.files import file_sha256, read_text
from lifealign.core.json_text import parse_json
from lifealign.data.collecting.redaction import Redacted
from lifealign.data.tasks import RowKind, shorten_numbers

SUFFIX = ".report.json"
"""Added to the name of the rows' file."""
FORMAT = 1
NAMES: Mapping[RowKind, tuple[str, str]] = {
    "desirable": ("desirable answer (thumb up)", "desirable answers (thumbs up)"),
    "undesirable": ("undesirable answer (thumb down)", "undesirable answers (thumbs down)"),
    "pair": ("pair (an edit or a preference)", "pairs (edits and preferences)"),
    "demonstration": ("demonstration", "demonstrations"),
}


@dataclass
class Report:
    """Counts of one file; no text of a record.

    Attributes:
        source: file that was read.
        source_sha256: of its bytes.
        read: number of records, bad lines among them.
        tools: kind of record -> how many.
        left_out: reason -> numbers of records with a verdict or an edit that cannot be used.
        not_taken: reason -> how many records were passed over, such as those without a verdict.
        doubtful: reason -> numbers of records that were kept.
        scales: how numbers were read.
        unread: field that holds something and was not read -> what it may mean.
        kinds: kind of row -> how many were kept.
        selection: the conditions.
        consent_checked: whether a consent was asked for.
        redaction: name, versions and options of the redactor; None: nothing was redacted.
        removed: what was replaced.
        seen: what seems to be in the rows where nothing was redacted; None: it was not looked for.
        looked_at: number of rows that were looked through for it.
        not_found: kinds that the redactor does not find.
        rows: file, SHA-256 of its bytes, and number of rows.
    """

    source: str
    source_sha256: str
    read: int
    tools: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, list[int]] = field(default_factory=dict)
    not_taken: dict[str, int] = field(default_factory=dict)
    doubtful: dict[str, list[int]] = field(default_factory=dict)
    scales: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    kinds: dict[RowKind, int] = field(default_factory=dict)
    selection: Mapping[str, Any] = field(default_factory=dict)
    redaction: Mapping[str, Any] | None = None
    removed: Redacted = field(default_factory=Redacted)
    seen: Redacted | None = None
    looked_at: int = 0
    not_found: tuple[str, ...] = ()
    rows: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Number of rows."""
        return sum(self.kinds.values())

    def pass_over(self, reason: str) -> None:
        """Count a record that is not taken."""
        self.not_taken[reason] = self.not_taken.get(reason, 0) + 1

    def reasons(self) -> list[str]:
        """Why records are not among the rows."""
        lines = [f"not taken {_records(count)}: {reason}" for reason, count in self.not_taken.items()]
        return lines + [
            f"left out {_records(len(n))}: {why} ({shorten_numbers(n)})" for why, n in self.left_out.items()
        ]

    def lines(self) -> list[str]:
        """The report as lines of text."""
        lines = [f"{self.source}: read {_records(self.read)}, kept {_count(self.kept, 'row')}"]
        lines += [f"records of {title}: {count}" for title, count in self.tools.items()]
        lines += [f"kept {count} {NAMES[kind][count != 1]}" for kind, count in self.kinds.items()]
        lines += self.reasons()
        lines += [f"doubtful, but kept: {reason} ({shorten_numbers(n)})" for reason, n in self.doubtful.items()]
        lines += self.scales
        if self.unread:
            lines.append("fields not read: " + ", ".join(f"{name} ({what})" for name, what in self.unread.items()))
        return [*lines, self._consent(), *self._personal()]

    def _consent(self) -> str:
        asked = self.selection.get("consent")
        if asked is None:
            return "consent: not checked; --consent FIELD takes only the records in which a person agreed"
        return f"consent: only records with {asked}"

    def _personal(self) -> list[str]:
        if self.redaction is not None:
            about = f"{self.redaction['redactor']} {self.redaction.get('presidio-analyzer', '')}".strip()
            removed = self.removed.line(f"removed by {about}") or f"removed by {about}: nothing was found"
            missed = [f"not looked for: {', '.join(self.not_found)}; they may be in the rows"] if self.not_found else []
            return [removed, *missed]
        if self.seen is None:
            return ["personal data: not looked for; --redact presidio removes it (pip install 'lifealign[redact]')"]
        where = "the rows" if self.looked_at >= self.kept else f"the first {self.looked_at} rows"
        found = self.seen.line(f"personal data seems to be in {where}")
        return [f"{found}; --redact presidio removes it" if found else f"personal data: no patterns of it in {where}"]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as kept beside the rows."""
        return {
            "format": FORMAT,
            "source": {"file": self.source, "sha256": self.source_sha256, "records": self.read},
            "rows": dict(self.rows),
            "records": dict(self.tools),
            "kinds": dict(self.kinds),
            "left_out": {reason: list(numbers) for reason, numbers in self.left_out.items()},
            "not_taken": dict(self.not_taken),
            "doubtful": {reason: list(numbers) for reason, numbers in self.doubtful.items()},
            "scales": list(self.scales),
            "unread": dict(self.unread),
            "selection": dict(self.selection),
            "redaction": {**self.redaction, **self.removed.to_json()} if self.redaction is not None else None,
            "seen": {"looked_at": self.looked_at, **self.seen.to_json()} if self.seen is not None else None,
            "not_looked_for": list(self.not_found),
        }


def _records(count: int) -> str:
    return _count(count, "record")


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def kept_beside(path: str) -> Mapping[str, Any]:
    """What a memory keeps of the report beside a file of rows; nothing if there is no such report.

    Returns:
        Log, SHA-256 of log and rows, selection and redaction; only `other_rows` if the report is not of these rows, e.g.
        because the file was edited.
    """
    rows, report = Path(path), Path(path + SUFFIX)
    if not report.is_file() or not rows.is_file():
        return {}
    digest = file_sha256(rows, DataError)
    try:
        held = parse_json(read_text(report, DataError))
        if held["rows"]["sha256"] != digest:
            return {"other_rows": True}
        redaction = held["redaction"]
        return {
            "source": held["source"]["file"],
            "source_sha256": held["source"]["sha256"],
            "rows_sha256": digest,
            "selection": dict(held["selection"]),
            "redaction": redaction and {name: value for name, value in redaction.items() if name != "rows"},
        }
    except (DataError, ValueError, KeyError, TypeError, AttributeError):
        return {"other_rows": True}
