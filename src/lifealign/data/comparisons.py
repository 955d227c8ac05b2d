"""From several answers to one prompt, with a verdict, scores or ranks, to the pair of a row. Imports no torch.

The rules: the answer that the verdict names against the other; of a list, the best answer against the worst, unless the user
names another rule (`verdicts`). Ties, and rows whose verdict cannot be told for certain, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lifealign.data.formats import Triple
from lifealign.data.turns import UnusableRowError, as_list, is_empty, number_of, turns_or_text

Record = Mapping[str, Any]
Columns = tuple[tuple[str, ...], ...]
"""For each needed group of a layout, the columns of a record that were taken for it."""

PROMPT = "prompt|query|instruction|question|input|messages|conversations|conversation|context|history"
STEMS = ("response", "answer", "completion", "output", "generation")
ENDINGS = (("_a", "_b"), ("_A", "_B"), ("_1", "_2"), ("1", "2"), ("_0", "_1"))
SIDES = "|".join(f"{stem}{one}+{stem}{other}" for one, other in ENDINGS for stem in STEMS)
"""Columns of two answers."""
SIGNED = ("preference_strength", "overall_preference")
"""Verdicts below zero for the first answer, above zero for the second (HelpSteer2 and 3)."""
VERDICT = (
    "winner|preference|preferred|choice|chosen|better|comparison|pairwise|"
    + "|".join(SIGNED)
    + "|winner_model_a+winner_model_b|score_a+score_b|score_A+score_B|score_0+score_1|score_1+score_2|label"
)
TIES = re.compile(r"(tie|both|neither|equal|same|draw|none|no preference).*")
SIDE_WORDS = ({"left", "first"}, {"right", "second"})

TEXTS = ("response", "text", "answer", "content", "output", "completion", "generation")
SCORES = ("overall_score", "score", "rating", "pm_score", "reward", "fine-grained_score", "average_rating")
RANKS = ("rank",)
LIST_SCORES = ("scores", "score", "ratings", "rating", "rewards", "reward")
LIST_RANKS = ("ranks", "rank", "ranking")


def prompt_of(record: Record, column: str) -> tuple[Any, tuple[str, ...]]:
    """The prompt in a column with what belongs to it, and the columns that were read.

    `input` follows an Alpaca `instruction` in a line of its own, as in LLaMA-Factory; the turns of `history` come first.

    Raises:
        UnusableRowError: `history` is not a list of turns.
    """
    prompt: Any = record.get(column)
    read: tuple[str, ...] = (column,)
    if column == "instruction":
        read = (*read, "input")
        if isinstance(record.get("input"), str) and not is_empty(record["input"]):
            prompt = f"{prompt}\n{record['input']}" if not is_empty(prompt) else record["input"]
    if column == "history" or is_empty(record.get("history")) or prompt is None:
        return prompt, read
    return [*_turns(record["history"]), *_prompt_turns(prompt)], (*read, "history")


def _turns(history: Any) -> list[Any]:
    turns: list[Any] = []
    for entry in as_list(history) or [None]:
        if isinstance(entry, list | tuple) and len(entry) == 2 and all(isinstance(text, str) for text in entry):
            turns += [{"role": "user", "content": entry[0]}, {"role": "assistant", "content": entry[1]}]
        elif isinstance(entry, Mapping):
            turns.append(entry)
        else:
            raise UnusableRowError("`history` is not a list of [question, answer] or of messages")
    return turns


def _prompt_turns(prompt: Any) -> list[Any]:
    found = turns_or_text(prompt)
    return list(found) if isinstance(found, tuple) else [{"role": "user", "content": found}]


def named(record: Record, columns: Columns) -> Triple:
    """The last group is the chosen and the rejected answer; the first, if there are two, the prompt."""
    chosen, rejected = columns[-1]
    prompt, read = prompt_of(record, columns[0][0]) if len(columns) > 1 else (None, ())
    return Triple(prompt, record.get(chosen), record.get(rejected), read=read)


def compared(record: Record, columns: Columns) -> Triple:
    """Prompt, two answers, verdict: the answer that the verdict names against the other one.

    Raises:
        UnusableRowError: the verdict is a tie, or names neither answer.
    """
    (column,), (one, other), verdict = columns
    prompt, read = prompt_of(record, column)
    scores: tuple[float, float] | None = None
    if len(verdict) == 2:
        of_one, of_other = (number_of(record.get(name)) for name in verdict)
        if of_one is None or of_other is None:
            raise UnusableRowError(f"{' and '.join(verdict)} are not numbers")
        first = None if of_one == of_other else of_one > of_other
        scores = max(of_one, of_other), min(of_one, of_other)
    else:
        first = first_is_better(record.get(verdict[0]), verdict[0], (one, other))
    if first is None:
        raise UnusableRowError("the verdict is a tie")
    chosen, rejected = (one, other) if first else (other, one)
    found = Triple(prompt, record.get(chosen), record.get(rejected), scores=scores, read=read)
    turns = [_only_turn(value) for value in (found.prompt, found.chosen, found.rejected)]
    return found if None in turns else replace(found, prompt=turns[0], chosen=turns[1], rejected=turns[2])


def _only_turn(value: Any) -> str | None:
    """The text of a list of one text, as the arena writes the prompts and the answers of a conversation; None for another value.

    Raises:
        UnusableRowError: it is a list of several texts.
    """
    turns = as_list(value)
    if not turns or not all(isinstance(turn, str) for turn in turns):
        return None
    if len(turns) > 1:
        raise UnusableRowError("the two conversations have several turns, and their answers differ before the last one")
    return str(turns[0])


def first_is_better(value: Any, column: str, names: tuple[str, str]) -> bool | None:
    """Whether a verdict is for the first of two answers; None: a tie.

    Raises:
        UnusableRowError: it names neither answer.
    """
    if isinstance(value, Mapping):  # Label Studio: {"selected": "left"}
        value = value.get("selected")
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    number = number_of(value)
    if column == "label" and number is not None:  # 1 may be the first answer, or the second, or "both are good"
        raise UnusableRowError("`label` is a number, which names neither answer")
    if column in SIGNED and number is not None:
        return None if number == 0 else number < 0
    text = str(int(number) if number is not None and number.is_integer() else value).strip().casefold()
    for first, name in zip((True, False), names, strict=True):
        ending = re.sub(r".*?_?([a-z]|\d+)$", r"\1", name.casefold())
        words = rf"((model|answer|option|assistant|{'|'.join(STEMS)})?[ _-]?{ending}|{re.escape(name.casefold())})"
        if re.fullmatch(words, text) or text in SIDE_WORDS[not first]:
            return first
    if TIES.fullmatch(text):
        return None
    raise UnusableRowError(f"`{column}` names neither answer")


def conversations(record: Record, columns: Columns) -> Triple:
    """Two whole conversations and the one that won."""
    one, other = columns[0]
    first = first_is_better(record.get(columns[1][0]), columns[1][0], (one, other))
    if first is None:
        raise UnusableRowError("the verdict is a tie")
    chosen, rejected = (one, other) if first else (other, one)
    return Triple(None, record.get(chosen), record.get(rejected))


def human_references(record: Record, columns: Columns) -> Triple:
    """SHP: `labels` is 1 if `human_ref_A` is preferred, 0 if `human_ref_B` is."""
    label = number_of(record.get("labels"))
    if label not in (0, 1):
        raise UnusableRowError("`labels` is neither 0 nor 1")
    answers = record.get("human_ref_A"), record.get("human_ref_B")
    return Triple(record.get("history"), *(answers if label == 1 else answers[::-1]))


def after_messages(record: Record, columns: Columns) -> Triple:
    """ms-swift: the last turn of `messages` is the chosen answer, and the rejected one has a column."""
    turns = turns_or_text(record.get(columns[0][0]))
    if not isinstance(turns, tuple) or not turns or turns[-1].role != "assistant":
        raise UnusableRowError("`messages` does not end with the chosen answer")
    rejected = turns_or_text(record.get(columns[1][0]))
    if isinstance(rejected, tuple) and rejected:
        rejected = rejected[-1].content
    return Triple(list(turns[:-1]), turns[-1].content, rejected)


def ranked(record: Record, columns: Columns) -> Triple:
    """Prompt and a list of answers with scores or ranks: the best against the worst, the first of equals.

    Raises:
        UnusableRowError: fewer than two answers have a score or rank, or all have the same.
    """
    (column,), (name,) = columns
    prompt, read = prompt_of(record, column)
    answers = as_list(record.get(name)) or []
    if name == "output" and len(answers) == 2 and all(isinstance(answer, str) for answer in answers):
        return Triple(prompt, answers[0], answers[1], read=read)  # LLaMA-Factory's older form: the chosen one first
    answers, values, used = _values(record, answers)
    known = [(answer, value) for answer, value in zip(answers, values, strict=True) if answer and value is not None]
    if len(known) < 2:
        raise UnusableRowError("fewer than two answers have a score or rank")
    best, worst = max(known, key=lambda pair: pair[1]), min(known, key=lambda pair: pair[1])
    if best[1] == worst[1]:
        raise UnusableRowError("all answers have the same score")
    scores = best[1], worst[1]
    return Triple(prompt, best[0], worst[0], scores=scores, read=(*read, *used), ranking=tuple(known))


def _values(record: Record, answers: Sequence[Any]) -> tuple[list[Any], list[float | None], tuple[str, ...]]:
    """The answers, how good each is (more is better), and the columns that hold the numbers."""
    if answers and all(isinstance(answer, Mapping) for answer in answers):
        texts = [next((a[key] for key in TEXTS if not is_empty(a.get(key))), None) for a in answers]
        return texts, [_value(answer) for answer in answers], ()
    for names, sign in ((LIST_SCORES, 1.0), (LIST_RANKS, -1.0)):
        for name in names:
            numbers = as_list(record.get(name))
            if numbers is not None and len(numbers) == len(answers):
                found = [number_of(number) for number in numbers]
                return list(answers), [None if n is None else sign * n for n in found], (name,)
    raise UnusableRowError("a list of answers has neither scores nor ranks")


def _value(answer: Mapping[str, Any]) -> float | None:
    scores = [number_of(answer.get(key)) for key in SCORES]
    ranks = [number_of(answer.get(key)) for key in RANKS]
    found = [s for s in scores if s is not None] or [-r for r in ranks if r is not None]
    return found[0] if found else None
