"""Judgements as JSONL: one judge's verdict on one answer, or the reason why there is none. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lifealign.core.documents import Count, Name, Number, Plain, Text, check
from lifealign.core.errors import JudgeError
from lifealign.core.files import replace_file, writing
from lifealign.core.json_codec import decode_json
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

    id: Name
    item: Name
    task: Name
    source: Name
    point: Name
    judge: Name
    rubric: Name
    mode: Literal["absolute", "pairwise"]
    score: Annotated[int, Field(ge=-(10**9), le=10**9)] | None = None
    winner: Literal["a", "b", "tie"] | None = None
    other: Name | None = None
    against: Name | None = None
    swapped: bool = False
    unscored: Name | None = None
    detail: Text = ""
    words: Text = ""
    steps: Mapping[str, Name] = field(default_factory=dict)
    prompt_tokens: Count | None = 0
    completion_tokens: Count | None = 0
    cost: Number | None = None
    lengths: Annotated[tuple[Count, ...], Plain] = ()

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
    value = decode_json(where, line, JudgeError)
    if isinstance(value, dict) and any(name not in value for name in _KEYS[:8]):
        raise JudgeError(f"{where}: not a judgement; expected the keys {', '.join(_KEYS)}")
    found = check(Judgement, value, f"{where}: not a judgement", JudgeError)
    verdict = found.score if found.mode == "absolute" else found.winner
    if (verdict is None) == (found.unscored is None) or (found.unscored is not None and found.unscored not in REASONS):
        raise JudgeError(f"{where}: expected either a verdict or a reason in `unscored` ({', '.join(REASONS)})")
    if found.mode == "pairwise" and found.other is None:
        raise JudgeError(f"{where}: a comparison needs `other`, the id of the other answer")
    return found


_KEYS = [one.name for one in fields(Judgement)]
