"""The table of layouts: which columns hold the prompt and the answers, for every layout that is known by its columns.

A layout is a row format of `formats.FORMATS`. Layouts that hold nothing to learn from are in the table too, so that a file
of them is named and refused, never half read. A new layout is one entry of `LAYOUTS`. Imports no torch.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lifealign.core.errors import DataError
from lifealign.data import comparisons, exports, single
from lifealign.data.comparisons import PROMPT, SIDES, VERDICT, Columns
from lifealign.data.formats import FORMATS, Triple
from lifealign.data.labels import LABEL, Labels
from lifealign.data.quality import scores_of
from lifealign.data.single import ANSWER
from lifealign.data.turns import UnusableRowError, as_list, is_empty
from lifealign.data.unread import is_metadata

Kind = Literal["pairs", "unpaired", "demonstrations", "prompts", "records"]
"""What the rows of a layout are."""
LEARNT: tuple[Kind, ...] = ("pairs", "unpaired", "demonstrations")
"""Kinds of layouts that can be learnt from."""

SYSTEM = ("system", "system_prompt", "system_message")
CHAT = "messages|conversations|conversation"
LISTS = "completions[]|responses[]|answers[]|generations[]|outputs[]|candidates[]|output[]"


@dataclass(frozen=True)
class Layout:
    """One layout of rows; called with a record, it is a row format.

    Attributes:
        title: its name in reports.
        needs: groups of columns, all needed. In a group, `|` is between alternatives and `+` between columns that go
            together. `name[]` is a column of lists, `*.name` any column whose name ends so.
        kind: what its rows are.
        read: record, columns -> the pair, or the answer.
        alone: whether it is only recognised without other columns of text.
    """

    title: str
    needs: tuple[str, ...]
    kind: Kind = "pairs"
    read: Callable[[Mapping[str, Any], Columns], Triple] = comparisons.named
    alone: bool = False

    def __call__(self, record: Mapping[str, Any]) -> Triple | None:
        """The pair or the answer of a record; None if a needed column is missing.

        Raises:
            UnusableRowError: the row cannot be used; gives the reason.
        """
        columns = self.columns(frozenset(names_of(record)), frozenset(filled_of(record)))
        return None if columns is None else Labels.of([record]).settle(self.triple(record, columns), record)

    def columns(self, names: frozenset[str], filled: frozenset[str]) -> Columns | None:
        """The columns taken for each group, filled ones first; None if a group has none among `names`."""
        found = []
        for group in _groups(self.needs):
            there = [option for option in group if names.issuperset(option)]
            if not there:
                return None
            found.append(next((option for option in there if filled.issuperset(option)), there[0]))
        return tuple(found)

    def triple(self, record: Mapping[str, Any], columns: Columns) -> Triple:
        """The pair or the answer of a record that has these columns; a label is not read yet.

        Raises:
            UnusableRowError: the row cannot be used; gives the reason.
        """
        if self.kind not in LEARNT:
            raise UnusableRowError(f"{NOUNS[self.kind]} ({self.title}), not learnt from")
        plain = tuple(tuple(name.removesuffix("[]") for name in option) for option in columns)
        triple = self.read(record, plain)
        system = next((name for name in SYSTEM if not is_empty(record.get(name))), None)
        groups = (name for option in plain for name in option)
        first = system or next((name for name in SYSTEM if name in record), None)
        scores, scored = (triple.scores, ()) if triple.scores else scores_of(record) or (None, ())
        read = (*((first,) if first else ()), *(triple.read or ()), *groups, *scored)
        return replace(
            triple, system=record[system] if system else None, scores=scores, read=tuple(dict.fromkeys(read))
        )


@functools.cache
def _groups(needs: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    return tuple(tuple(tuple(option.split("+")) for option in group.split("|")) for group in needs)


def names_of(record: Mapping[str, Any]) -> set[str]:
    """The columns of a record, with `name[]` for a column of lists and `*.name` for one with a dot in its name."""
    found = {str(name) for name in record}
    found |= {f"{name}[]" for name in found if f"{name}[]" in _LIST_COLUMNS and as_list(record.get(name)) is not None}
    return found | {f"*.{name.rpartition('.')[2]}" for name in found if "." in name}


def filled_of(record: Mapping[str, Any]) -> set[str]:
    """Those of `names_of` that hold something; blank text does."""
    return names_of(
        {name: value for name, value in record.items() if (isinstance(value, str) and value) or not is_empty(value)}
    )


_LIST_COLUMNS = frozenset(LISTS.split("|"))

IMPLICIT = "TRL preference, implicit prompt"

LAYOUTS: Mapping[str, Layout] = {
    "trl-preference": Layout("TRL preference", ("prompt", "chosen+rejected")),
    "paper": Layout("the paper's names", ("query", "chosen+rejected")),
    "alpaca": Layout("Alpaca preference", ("instruction", "chosen+rejected")),
    "orca": Layout("Orca preference", ("question", "chosen+rejected")),
    "sharegpt": Layout("ShareGPT preference", ("conversations|conversation", "chosen+rejected")),
    "messages-preference": Layout("messages and two answers", ("messages", "chosen+rejected")),
    "distilabel": Layout("distilabel preference", ("input", "chosen+rejected")),
    "openai-preference": Layout("OpenAI preference", ("input", "preferred_output+non_preferred_output")),
    "argilla-binarized": Layout(
        "Argilla, binarized", (PROMPT, "chosen_response+rejected_response|chosen-response+rejected-response")
    ),
    "stack-exchange": Layout("Stack Exchange, paired", ("question", "response_j+response_k")),
    "ms-swift": Layout(
        "ms-swift", ("messages", "rejected_response|rejected_messages"), read=comparisons.after_messages
    ),
    "shp": Layout("SHP", ("history", "human_ref_A+human_ref_B", "labels"), read=comparisons.human_references),
    "arena": Layout("arena", ("conversation_a+conversation_b", "winner"), read=comparisons.conversations),
    "argilla": Layout("Argilla export", ("fields", "responses"), read=exports.argilla),
    "argilla-flat": Layout("Argilla data set", (PROMPT, "*.responses"), read=exports.argilla_flat),
    "label-studio": Layout("Label Studio export", ("data", "annotations"), read=exports.label_studio),
    "compared": Layout("two answers and a verdict", (PROMPT, SIDES, VERDICT), read=comparisons.compared),
    "ranked": Layout("answers with scores or ranks", (PROMPT, LISTS), read=comparisons.ranked),
    "trl-implicit": Layout(IMPLICIT, ("chosen+rejected",)),
    "answers": Layout("answers of lifealign", ("task", "prompt", "answer", "source", "point"), "records"),
    "ratings": Layout("ratings of lifealign", ("item", "rubric", "annotator", "winner"), "records"),
    "judgements": Layout("judgements of lifealign", ("item", "rubric", "judge", "winner"), "records"),
    "trl-unpaired": Layout("TRL unpaired preference", ("prompt", "completion", "label"), "unpaired", single.labelled),
    "unpaired": Layout("an answer and a label", (PROMPT, ANSWER, LABEL), "unpaired", single.labelled_answer),
    "unpaired-chat": Layout("a conversation and a label", (CHAT, LABEL), "unpaired", single.labelled_conversation),
    "trl-completion": Layout("TRL prompt-completion", ("prompt", "completion"), "demonstrations", single.explicit),
    "alpaca-output": Layout("Alpaca", ("instruction", "output"), "demonstrations", single.answered),
    "dolly": Layout("Dolly", ("instruction", "context", "response"), "demonstrations", single.with_context),
    "answered": Layout("a prompt and an answer", (PROMPT, ANSWER), "demonstrations", single.answered),
    "messages": Layout("OpenAI or TRL messages", ("messages",), "demonstrations", single.conversation),
    "sharegpt-messages": Layout("ShareGPT", ("conversations|conversation",), "demonstrations", single.conversation),
    "prompts": Layout("TRL prompt-only", ("prompt|query|instruction|question",), "prompts", alone=True),
}
"""Layouts by name, in the order in which they are tried."""

FORMATS.built_in(LAYOUTS)

NOUNS: Mapping[Kind, str] = {
    "pairs": "pairs",
    "unpaired": "labelled answers",
    "demonstrations": "demonstrations",
    "prompts": "prompts without answers",
    "records": "a file that lifealign wrote",
}
NEXT: Mapping[Kind, str] = {
    "prompts": "add an answer to each row, with a label or with a worse one",
    "records": "it holds held-out rows or the ids of answers, not rows to learn from",
}


class NotRowsError(DataError):
    """A source whose layout is known and holds nothing to learn from.

    Attributes:
        layout: the layout that most of its rows have; `Layout.kind` is what they are.
    """

    def __init__(self, source: str, layout: Layout, columns: Sequence[str]) -> None:
        self.layout = layout
        super().__init__(
            f"{source}: {NOUNS[layout.kind]}, by its columns {', '.join(columns)} ({layout.title}); needed pairs "
            "(`prompt`, `chosen`, `rejected`), labelled answers (`prompt`, `completion`, `label`) or demonstrations "
            f"(`prompt`, `completion`); {NEXT[layout.kind]}"
        )


def recognise(record: Mapping[str, Any], file_columns: frozenset[str]) -> tuple[Layout, Columns] | None:
    """The built-in layout of a record, and the columns taken for its groups; None if its columns are not known.

    Args:
        record: as read.
        file_columns: `names_of` all records of its file. A column of a pair that only this record lacks is an empty one, so
            a broken pair is never taken for a row with one answer.
    """
    return _recognise(file_columns, frozenset(names_of(record)), frozenset(filled_of(record)))


@functools.lru_cache(maxsize=4096)
def _recognise(
    file_names: frozenset[str], names: frozenset[str], filled: frozenset[str]
) -> tuple[Layout, Columns] | None:
    """Layouts whose columns are all filled come first, then those with more than half of them; pairs before others.

    An answer without its label has an empty label: it is no demonstration. Prompts alone come late, and last the layouts
    that a record has little of, with columns that only other records have.
    """
    others = {name for name in filled if "[" not in name and "*" not in name}
    found = []
    for place, layout in enumerate(LAYOUTS.values()):
        columns = layout.columns(file_names if layout.kind == "pairs" else names, filled)
        if columns is None:
            continue
        used = [name for option in columns for name in option]
        if layout.alone and not all(is_metadata(name) for name in others - set(used)):
            continue
        share = sum(name in filled for name in used) / len(used)
        full = share >= 0.5 if layout.kind == "unpaired" else share == 1
        level = 0 if full else 1 if share > 0.5 else 2
        if layout.alone or (level == 2 and not names.issuperset(used)):
            level = 3 if layout.alone else 4
        found.append((level, layout.kind != "pairs", place, layout, columns))
    if not found:
        return None
    pairs = [one for one in found if not one[1] and one[0] < 2]
    return min(pairs or found, key=lambda one: one[:3])[3:]


def refuse_if_nothing_to_learn(found: Iterable[tuple[Layout, Columns] | None], source: str) -> None:
    """Raise if the layouts of a source's records are known and none of them can be learnt from.

    Raises:
        NotRowsError: names the layout that most records have, what is needed, and what to do.
    """
    known = Counter(one for one in found if one is not None)
    if known and all(layout.kind not in LEARNT for layout, _ in known):
        layout, columns = known.most_common(1)[0][0]
        raise NotRowsError(source, layout, [name for option in columns for name in option])
