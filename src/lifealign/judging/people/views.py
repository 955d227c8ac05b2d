"""Content of the page for people, as plain values that never reveal the source of an answer. No torch, no web server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from lifealign.judging.people.batch import REFERENCE, Mode, Question
from lifealign.judging.people.database import Assignment, Rating
from lifealign.judging.people.summary import agreement_lines
from lifealign.judging.rubrics import Rubric

STEP_KEYS = "qweryi"
"""Keys for the options of preliminary questions, in the order of the page."""
_PAIR = (
    ("left", "A is better", "←", "ArrowLeft a 1"),
    ("tie", "Tie", "T", "t = 0"),
    ("right", "B is better", "→", "ArrowRight b 2"),
)
_UNSEEN = (
    (0x00, 0x08),
    (0x0B, 0x1F),
    (0x7F, 0x9F),
    (0x200B, 0x200B),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0xD800, 0xDFFF),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0xE0000, 0xE007F),
)
"""Control characters, marks that change the text direction, zero-width characters that no script needs, halves of a
character (lone surrogates): first and last code point of each group."""
_CODES = {
    code: f'<span class="unseen">U+{code:04X}</span>' for first, last in _UNSEEN for code in range(first, last + 1)
}
_ANY_UNSEEN = "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSEEN) + "]"
_MOST_UNSEEN = 40
"""Invisible characters in a row that are shown one by one."""
_CROWD = re.compile(f"({_ANY_UNSEEN}{{{_MOST_UNSEEN}}})({_ANY_UNSEEN}+)")


def visible(text: str) -> Markup:
    """Escaped text with invisible characters shown as their code points instead of taking effect."""
    # Escaping adds none of these characters, so that it can come first; one table for all is quick in a megabyte of them.
    escaped = _CROWD.sub(_counted, str(escape(text.replace("\r\n", "\n"))))
    return Markup(escaped.translate(_CODES))


def _counted(match: re.Match[str]) -> str:
    return f'{match[1]}<span class="unseen">{len(match[2]):,} more</span>'


def question_page(assignment: Assignment, mode: Mode, rubric: Rubric, references: bool) -> dict[str, Any]:
    """Values for question.html.j2; `references`: whether questions of this batch show their reference answers."""
    question = assignment.question
    turns = question.a.prompt if "conversation" in rubric.sees else question.a.prompt[-1:]
    draft = assignment.draft or Rating()
    return {
        "position": assignment.position,
        "asks": "Which answer is better?" if mode == "pairwise" else rubric.question,
        "rubric": rubric,
        "turns": [{"role": turn.role, "text": turn.content} for turn in turns],
        "reference": question.a.reference if references and "reference" in rubric.sees else None,
        "sides": [
            {"name": name, "text": record.answer, "cut": record.finish == "length"}
            for name, record in zip("AB" if mode == "pairwise" else ("Answer",), assignment.sides, strict=True)
        ],
        "steps": _steps(rubric, draft),
        "choices": _pair_choices(draft) if mode == "pairwise" else _score_choices(rubric, draft),
        "draft": draft,
        "mode": mode,
    }


def shows_references(questions: Iterable[Question]) -> bool:
    """Whether questions may show their reference answers: not if some gold question has its own among the two sides.

    Shown there, it would give the gold away; left out there alone, it would tell which questions are gold.
    """
    return not any(question.gold and question.a.source == REFERENCE for question in questions)


def overview_page(document: Mapping[str, Any]) -> dict[str, Any]:
    """Values for overview.html.j2, from `summary.summarise`."""
    people = [
        {
            **one,
            "share": round(100 * one["rated"] / one["assigned"]) if one["assigned"] else 100,
            "left": None if one["left"] is None else round(one["left"]),
            "seconds": None if one["seconds"] is None else round(one["seconds"]),
        }
        for one in document["annotators"]
    ]
    counts = {key: sum(one[key] for one in people) for key in ("rated", "assigned", "flagged", "unable", "comments")}
    return {"people": people, "counts": counts, "lines": agreement_lines(document), "questions": document["questions"]}


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
