"""Judgements as JSONL: one judge's verdict on one answer, or the reason why there is none. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from lifealign.core.errors import JudgeError
from lifealign.core.files import replace_file, writing
from lifealign.judging.llm.reply import REASONS


@dataclass(frozen=True)
class Judgement:
    """One line of the file.

    Attributes:
        id: id of the answer (see `data.answers.AnswerRecord`).
        item: id of the prompt.
        task: name of the prompt's task.
        source: source of the answer.
        point: task after which it was given.
        judge: the judge's name, by default its model's.
        rubric: name of the rubric.
        mode: absolute or pairwise.
        score: absolute mode: score on the rubric's scale; None: unscored.
        winner: pairwise mode: a (this answer), b (the other one) or tie; None: unscored.
        other: pairwise mode: id of the other answer.
        against: pairwise mode: source and point of the other answer.
        swapped: pairwise mode: whether the other answer was shown first.
        unscored: None, or a key of `reply.REASONS`.
        detail: what came instead of a verdict.
        words: the judge's explanation.
        steps: the judge's answers to the rubric's preliminary questions.
        prompt_tokens: as counted by the server; None: not counted. 0 if this judgement cost nothing, because nothing was
            asked or because an equal question earlier in the file was.
        completion_tokens: as `prompt_tokens`.
        cost: as `prompt_tokens`, in the currency of the prices; None: prices or tokens are not known.
        lengths: characters of this answer and, in pairwise mode, of the other one.
    """

    id: str
    item: str
    task: str
    source: str
    point: str
    judge: str
    rubric: str
    mode: Literal["absolute", "pairwise"]
    score: int | None = None
    winner: Literal["a", "b", "tie"] | None = None
    other: str | None = None
    against: str | None = None
    swapped: bool = False
    unscored: str | None = None
    detail: str = ""
    words: str = ""
    steps: Mapping[str, str] = field(default_factory=dict)
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    cost: float | None = None
    lengths: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, in the order of the fields."""
        return dict(vars(self))


def write_judgements(path: Path, judgements: Iterable[Judgement]) -> None:
    """Write a jsonl file as a whole."""
    lines = [json.dumps(one.to_json(), ensure_ascii=False, allow_nan=False) + "\n" for one in judgements]
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, "".join(lines).encode("utf-8", "replace"))


def read_judgements(path: str | Path) -> list[Judgement]:
    """Read the judgements of a file, in order.

    Raises:
        JudgeError: no such file, or a line that is not a judgement; names the file and the line.
    """
    try:
        # Not str.splitlines, which also splits at U+2028 and the like; a judge's words may hold them.
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeError(f"{path}: cannot read this file: {getattr(error, 'strerror', None) or error}") from None
    return [_read(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _read(line: str, where: str) -> Judgement:
    try:
        value = json.loads(line)
    except ValueError:
        raise JudgeError(f"{where}: not JSON") from None
    known = [one.name for one in fields(Judgement)]
    if not isinstance(value, dict) or not set(value) <= set(known) or not set(known[:8]) <= set(value):
        raise JudgeError(f"{where}: not a judgement; expected the keys {', '.join(known)}")
    if value["mode"] not in ("absolute", "pairwise"):
        raise JudgeError(f"{where}: mode {value['mode']!r}; allowed: absolute, pairwise")
    verdict = value.get("score" if value["mode"] == "absolute" else "winner")
    reason = value.get("unscored")
    if (verdict is None) == (reason is None) or (reason is not None and reason not in REASONS):
        raise JudgeError(f"{where}: expected either a verdict or a reason in `unscored` ({', '.join(REASONS)})")
    return Judgement(**{**value, "lengths": tuple(value.get("lengths", ()))})
