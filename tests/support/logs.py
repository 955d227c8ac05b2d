"""Records of logs with feedback, and a stand-in for the redactor."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lifealign.data.collecting import collect as collecting
from lifealign.data.collecting.redaction import Replace
from lifealign.data.collecting.report import Report
from lifealign.data.collecting.selecting import Selection
from support.records import assistant, user, write_jsonl


def exchange(question: str, answer: str | None, **more: Any) -> dict[str, Any]:
    """A request with its response, as an application logs OpenAI's chat completions."""
    return {
        "request": {"model": "m-1", "messages": [user(question)]},
        "response": {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1772000000,
            "model": "m-1-2026",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
        },
        **more,
    }


def served(question: str, answer: str, label: bool, **more: Any) -> dict[str, Any]:
    """A line of the feedback file of `lifealign serve`."""
    about = {
        "id": "chatcmpl-7",
        "choice": 0,
        "model": "now",
        "point": "0001-tone",
        "voted": "2026-03-04T10:00:00+00:00",
    }
    return {"prompt": [user(question)], "completion": [assistant(answer)], "label": label, **more, "metadata": about}


def collected(
    tmp_path: Path, records: Sequence[Any], options: Mapping[str, Any] | None = None, redactor: Any = None
) -> tuple[list[dict[str, Any]], Report]:
    """The rows of a log without their source, and the report. A text among the records is a line as it is."""
    log, out = tmp_path / "log.jsonl", tmp_path / "rows.jsonl"
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    options = dict(options or {})
    known = {name: options.pop(name) for name in list(options) if name in ("consent", "since", "until", "model")}
    report = collecting.collect(str(log), out, collecting.Options(Selection(**known), **options), redactor)
    rows = [json.loads(line) for line in out.read_text("utf-8").split("\n") if line]
    return [{name: value for name, value in row.items() if name != "source"} for row in rows], report


class Patterns:
    """A redactor of two patterns, which replaces from the end of a text as Presidio does."""

    about: Mapping[str, Any] = {"redactor": "patterns"}
    not_found: Sequence[str] = ["names of people, places"]
    KINDS: Mapping[str, str] = {"EMAIL_ADDRESS": r"[\w.]+@[\w.]+\w", "PHONE_NUMBER": r"\+\d[\d ]+\d"}

    def replace(self, text: str, replacement: Replace) -> str:
        finds = [(m.span(), kind, m[0]) for kind, pattern in self.KINDS.items() for m in re.finditer(pattern, text)]
        for (start, end), kind, part in sorted(finds, reverse=True):
            text = text[:start] + replacement(kind, part) + text[end:]
        return text


__all__ = ["Patterns", "assistant", "collected", "exchange", "served", "user", "write_jsonl"]
