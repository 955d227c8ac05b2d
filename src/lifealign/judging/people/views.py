"""Content of the page for people, as plain values that never reveal the source of an answer. No torch, no web server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from lifealign.judging.people.batch import REFERENCE, Mode
from lifealign.judging.people.database import Assignment, Rating
from lifealign.judging.rubrics import Rubric

STEP_KEYS = "qweryi"
"""Keys for the options of preliminary questions, in the order of the page."""
_PAIR = (
    ("left", "A is better", "←", "ArrowLeft a 1"),
    ("tie", "Equally good", "T", "t = 0"),
    ("right", "B is better", "→", "ArrowRight b 2"),
)
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]+"
)
"""Control characters, marks that change the text direction, zero-width characters that no script needs, halves of a
character (lone surrogates)."""
_MOST_UNSEEN = 40
"""Invisible characters in a row that are shown one by one."""


def visible(text: str) -> Markup:
    """Escaped text with invisible characters shown as their code points instead of taking effect."""
    # Escaping adds none of these characters, so that it can come first, for the whole text at once.
    return Markup(_UNSEEN.sub(_shown, str(escape(text.replace("\r\n", "\n")))))


def _shown(match: re.Match[str]) -> str:
    codes = [f"U+{ord(character):04X}" for character in match.group()[:_MOST_UNSEEN]]
    if more := len(match.group()) - len(codes):
        codes.append(f"{more:,} more")
    return "".join(f'<span class="unseen">{code}</span>' for code in codes)


def question_page(assignment: Assignment, mode: Mode, rubric: Rubric) -> dict[str, Any]:
    """Values for question.html.j2."""
    question = assignment.question
    turns = question.a.prompt if "conversation" in rubric.sees else question.a.prompt[-1:]
    # The row's preferred answer is one of the two; shown as the reference it would give the gold away.
    reference = None if question.gold and question.a.source == REFERENCE else question.a.reference
    draft = assignment.draft or Rating()
    return {
        "position": assignment.position,
        "rubric": rubric,
        "turns": [{"role": turn.role, "text": turn.content} for turn in turns],
        "reference": reference if "reference" in rubric.sees else None,
        "sides": [
            {"name": name, "text": record.answer}
            for name, record in zip("AB" if mode == "pairwise" else ("Answer",), assignment.sides, strict=True)
        ],
        "steps": _steps(rubric, draft),
        "choices": _pair_choices(draft) if mode == "pairwise" else _score_choices(rubric, draft),
        "draft": draft,
        "mode": mode,
    }


def _steps(rubric: Rubric, draft: Rating) -> list[dict[str, Any]]:
    keys = iter(STEP_KEYS)
    return [
        {
            "name": step.name,
            "question": step.question,
            "options": [
                {
                    "name": option.name,
                    "text": option.text,
                    "key": next(keys, None),
                    "chosen": draft.steps.get(step.name) == option.name,
                }
                for option in step.options
            ],
        }
        for step in rubric.steps
    ]


def _pair_choices(draft: Rating) -> list[dict[str, Any]]:
    return [
        {"field": "winner", "value": v, "label": label, "hint": hint, "press": keys, "chosen": draft.winner == v}
        for v, label, hint, keys in _PAIR
    ]


def _score_choices(rubric: Rubric, draft: Rating) -> list[dict[str, Any]]:
    scale = rubric.scale
    return [
        {
            "field": "score",
            "value": score,
            "label": str(score),
            "hint": None,
            "press": _score_key(score, scale.low),
            "chosen": draft.score == score,
            "anchor": scale.anchors.get(score),
        }
        for score in range(scale.low, scale.high + 1)
    ]


def _score_key(score: int, low: int) -> str:
    """Key for a score: its digit; 0 stands for 10 if the scale has no 0."""
    if 0 <= score <= 9:
        return str(score)
    return "0" if score == 10 and low > 0 else ""


def guide_page(rubrics: Sequence[Rubric], mode: Mode) -> dict[str, Any]:
    """Values for guide.html.j2."""
    keys = [(hint, label) for _, label, hint, _ in _PAIR]
    if mode == "absolute":
        highest = max(rubric.scale.high for rubric in rubrics)
        keys = [("1–9", "give this score"), *([("0", "give a 10")] if highest == 10 else [])]
    if any(rubric.steps for rubric in rubrics):
        keys = [("Q, W", "answer the preliminary question"), *keys]
    return {"rubrics": rubrics, "mode": mode, "keys": keys}
