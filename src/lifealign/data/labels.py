"""Labels of one answer, such as thumbs: wanted, unwanted, or not to be told. Imports no torch.

Words and emoji have one meaning. A number has one where the column holds nothing but 1 and 0, or 1 and -1 (0 between them is
no verdict); any other number, such as four of five stars, needs a rule of the user. So labels are read per file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lifealign.data.formats import Triple
from lifealign.data.turns import UnusableRowError, as_list, is_empty, number_of
from lifealign.data.verdicts import Rules
from lifealign.data.vote_words import AGAINST, FOR, NEITHER, NO, YES, spelt

COUNTED = (
    ("thumbs_up", "thumbs_down"),
    ("upvotes", "downvotes"),
    ("likes", "dislikes"),
    ("up_votes", "down_votes"),
)
"""Two columns, each with a count or a flag, that are a label together."""
GRADES = ("rating", "score", "stars", "user_rating", "user_score", "human_rating", "human_score", "feedback_score")
"""Columns whose numbers are on a scale: a 1 alone may be the lowest."""
ASKING = (
    "thumbs_up",
    "upvoted",
    "liked",
    "desirable",
    "is_good",
    "is_desirable",
    "is_correct",
    "is_helpful",
    "helpful",
)
"""Columns named after a good answer, where "yes" and "no" are labels too."""
BAD_COLUMNS = ("undesirable", "is_bad", "is_undesirable")
"""Columns named after a bad answer: true means unwanted."""
DOWN_ONLY = ("thumbs_down", "downvoted", "disliked")
"""Like `BAD_COLUMNS`, but false does not mean that the answer is good."""
LABEL = "|".join(
    (
        *("+".join(both) for both in COUNTED),
        *("label", "kto_tag", "kto_label", "thumb", "thumbs", "feedback", "user_feedback", "human_feedback", "vote"),
        *("reaction", "human_label", "thumbs_rating"),
        *(*ASKING, *BAD_COLUMNS, *DOWN_ONLY, *GRADES),
    )
)
"""Columns of labels as a group of `layouts.Layout.needs`."""

INSIDE = ("value", "rating", "score", "label", "thumb", "thumbs", "vote", "type")
"""Keys of an object that holds a label."""
SIGNS = ({0.0, 1.0}, {-1.0, 0.0, 1.0})
SHOWN = 2
SCALE = (
    "`{column}` holds numbers such as {shown}, and from which number on an answer is good is not told; give --good-from "
    "NUMBER, or --map unused={column} to read the rows without it"
)


@dataclass(frozen=True)
class Labels:
    """Reads the labels of one file.

    Attributes:
        numbers: column that holds something -> the numbers in it.
        rules: of the user.
    """

    numbers: Mapping[str, frozenset[float]]
    rules: Rules

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], rules: Rules | None = None) -> Labels:
        """A reader of the labels of these records."""
        found: dict[str, set[float]] = {}
        for record in records:
            for name in _SINGLE & record.keys():
                for value in _values(record[name]):
                    found.setdefault(name, set())
                    number = _number(value)
                    if number is not None:
                        found[name].add(number)
        return cls({name: frozenset(values) for name, values in found.items()}, rules or Rules())

    def settle(self, triple: Triple, record: Mapping[str, Any]) -> Triple:
        """`triple` with the kind that its label gives it.

        Raises:
            UnusableRowError: the label is empty, no verdict, or can be read in two ways; says what to do.
        """
        if triple.label is None:
            return triple
        good = self._elected(triple) if triple.votes else self._is_good(triple.label, record)
        answer = triple.chosen if triple.rejected is None else triple.rejected
        if good:
            return replace(triple, kind="desirable", chosen=answer, rejected=None, label=None, votes=())
        return replace(triple, kind="undesirable", chosen=None, rejected=answer, label=None, votes=())

    def _elected(self, triple: Triple) -> bool:
        """Whether more votes are for the answer than against it; their numbers are on a scale."""
        assert triple.label is not None
        (question,) = triple.label
        found = [self._one(value, question, graded=True) for vote in triple.votes for value in _values(vote)]
        if 2 * sum(found) == len(found):
            raise UnusableRowError(f"no label: as many votes for the answer as against it in `{question}`")
        return 2 * sum(found) > len(found)

    def _is_good(self, columns: tuple[str, ...], record: Mapping[str, Any]) -> bool:
        columns = next((both for both in COUNTED if set(columns) < set(both) <= set(record)), columns)
        if len(columns) == 2:
            up, down = (_count(record.get(name), name) for name in columns)
            if up == down:
                raise UnusableRowError(f"no label: as much in `{columns[0]}` as in `{columns[1]}`")
            return up > down
        (column,) = columns
        values = _values(record.get(column))
        if not values:
            unused = f" in every row; to read them as demonstrations, --map unused={column}"
            raise UnusableRowError(f"no label: `{column}` is empty{'' if column in self.numbers else unused}")
        found = {self._one(value, column) for value in values}
        if len(found) > 1:
            raise UnusableRowError(f"no label: the values of `{column}` disagree")
        return found.pop()

    def _one(self, value: Any, column: str, graded: bool = False) -> bool:
        """Whether one value means that the answer is wanted; `graded`: its column is on a scale, by whatever name."""
        found = (
            self._by_number(value, column, graded or column in GRADES)
            if _number(value) is not None
            else _by_word(value, column)
        )
        if column in BAD_COLUMNS:
            return not found
        if column in DOWN_ONLY:
            if not found:
                raise UnusableRowError(f"no label: `{column}` is false, which does not mean that the answer is good")
            return False
        return found

    def _by_number(self, value: Any, column: str, graded: bool) -> bool:
        number = _number(value)
        assert number is not None
        rules, numbers = self.rules, self.numbers.get(column, frozenset({number}))
        certain = any(numbers <= signs for signs in SIGNS)
        if rules.good_from is not None and (graded or not certain):
            if number >= rules.good_from:
                return True
            if rules.bad_to is None or number <= rules.bad_to:
                return False
            raise UnusableRowError(f"no label: `{column}` is between {rules.bad_to:g} and {rules.good_from:g}")
        if not certain or (graded and len(numbers) == 1):
            shown = " and ".join(f"{n:g}" for n in sorted(numbers)[-SHOWN:])
            raise UnusableRowError(SCALE.format(column=column, shown=shown))
        if number == 0 and -1.0 in numbers:
            raise UnusableRowError(f"no label: `{column}` is 0, between -1 and 1")
        return number > 0


_SINGLE = frozenset(name for name in LABEL.split("|") if "+" not in name)


def is_label(value: Any) -> bool:
    """Whether a value is a number or a known word for an answer, against it, or for neither."""
    return isinstance(value, bool) or _number(value) is not None or spelt(str(value)) in FOR | AGAINST | NEITHER


def is_bad_word(value: Any) -> bool:
    """Whether a text marks an answer as bad, as "bad" or "negative" do."""
    return isinstance(value, str) and len(spelt(value)) > 1 and spelt(value) in AGAINST - {"false"}


def _by_word(value: Any, column: str) -> bool:
    if isinstance(value, bool):
        return value
    text = spelt(str(value))
    asked = column in (*ASKING, *BAD_COLUMNS, *DOWN_ONLY)
    if text in FOR or (asked and text in YES):
        return True
    if text in AGAINST or (asked and text in NO):
        return False
    if text in NEITHER:
        raise UnusableRowError(f"no label: `{column}` holds no verdict")
    raise UnusableRowError(
        f"the label in `{column}` is neither good nor bad; known are true and false, 1 and 0, 1 and -1, up and down, good "
        "and bad, and the like"
    )


def _values(value: Any) -> tuple[Any, ...]:
    """The labels in a cell: one, those of a list, or that of an object; blanks are left out."""
    if isinstance(value, Mapping):
        held = [value[key] for key in INSIDE if not is_empty(value.get(key))]
        return _values(held[0]) if held else ()
    several = as_list(value)
    if several is not None:
        return tuple(one for entry in several for one in _values(entry))
    return () if is_empty(value) else (value,)


def _number(value: Any) -> float | None:
    """A number, also as text, e.g. "+1"; None for words and for true and false."""
    return number_of(value)


def _count(value: Any, column: str) -> float:
    if isinstance(value, bool):
        return float(value)
    found = 0.0 if is_empty(value) else number_of(value)
    if found is None and str(value).strip().casefold() in ("true", "false"):
        found = float(str(value).strip().casefold() == "true")
    if found is None or found < 0:
        raise UnusableRowError(f"`{column}` is neither a count nor true or false")
    return found
