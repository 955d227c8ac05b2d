"""`lifealign check-data`: report the faults of a file of rows, by row number."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike, fspath
from typing import Any

from lifealign.data.cleaning import Cleaned, read_source
from lifealign.data.conversations import CONVERSATION, PROMPT, HeldOut
from lifealign.data.formats import SHARED_BEGINNING
from lifealign.data.quality import both_labels, contradictions, near_duplicates
from lifealign.data.tasks import SHOWN_ROW_NUMBERS, DataReport, Row, prompt_key, shorten_numbers
from lifealign.data.verdicts import source_of

SHOWN_PROMPTS = 3


@dataclass(frozen=True)
class Lengths:
    """Lengths of one kind of text, in characters."""

    shortest: int
    median: float
    mean: float
    longest: int


@dataclass(frozen=True)
class DataCheck:
    """Everything that `check_data` found.

    Attributes:
        report: rows read and kept, and the row numbers behind each drop and repair.
        formats: format name -> rows that had it.
        lengths: `prompt` (all turns), `chosen`, `rejected`, `answer` (of rows that are no pairs) -> lengths in the kept
            rows; without texts that no row has.
        one_sided_prefix: rows in which exactly one answer began with "Assistant: ".
        one_sided_prefix_share: their share of the rows read, 0..1.
        longer_chosen: of the kept pairs whose answers differ in length, the share with the longer answer chosen, 0..1;
            None if there are no such rows. Far from 0.5, a model can score well by length alone.
        implicit_prompts: the first prompts that were taken from the common beginning of two answers.
        repeated_prompts: kept rows whose prompt is also in an earlier kept row.
        contradictions: number of a kept row and of the earlier row that it contradicts: chosen and rejected swapped.
        both_labels: the same for an answer that is wanted in one row and unwanted in the other.
        near_duplicates: number of a kept row and of the test row (without a test source: of an earlier row) that it
            nearly repeats, as `quality.near_duplicates` defines it.
        prompts_on_both_sides: kept rows whose prompt is also in the test source; None without a test source.
        conversations_on_both_sides: kept rows whose prompt begins, or continues, a conversation of the test source; None
            without one.
        held_out: task of a memory -> kept rows whose prompt or conversation it holds out; None without a memory.
        test: report of the test source; None without one.
        rows: the kept rows themselves; not part of `to_json`.
    """

    report: DataReport
    formats: Mapping[str, int]
    lengths: Mapping[str, Lengths]
    one_sided_prefix: tuple[int, ...]
    one_sided_prefix_share: float
    longer_chosen: float | None
    implicit_prompts: tuple[str, ...]
    repeated_prompts: tuple[int, ...]
    contradictions: tuple[tuple[int, int], ...]
    both_labels: tuple[tuple[int, int], ...]
    near_duplicates: tuple[tuple[int, int], ...]
    prompts_on_both_sides: tuple[int, ...] | None = None
    conversations_on_both_sides: tuple[int, ...] | None = None
    held_out: Mapping[str, tuple[int, ...]] | None = None
    test: DataReport | None = None
    rows: Cleaned | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, row numbers in full."""
        both, cut = self.prompts_on_both_sides, self.conversations_on_both_sides
        held = self.held_out
        return {
            "report": self.report.to_json(),
            "layouts": dict(self.report.layouts),
            "formats": dict(self.formats),
            "lengths": {what: asdict(lengths) for what, lengths in self.lengths.items()},
            "one_sided_prefix": list(self.one_sided_prefix),
            "one_sided_prefix_share": self.one_sided_prefix_share,
            "longer_chosen": self.longer_chosen,
            "implicit_prompts": list(self.implicit_prompts),
            "repeated_prompts": list(self.repeated_prompts),
            "contradictions": [list(pair) for pair in self.contradictions],
            "both_labels": [list(pair) for pair in self.both_labels],
            "near_duplicates": [list(pair) for pair in self.near_duplicates],
            "prompts_on_both_sides": None if both is None else list(both),
            "conversations_on_both_sides": None if cut is None else list(cut),
            "held_out": None if held is None else {task: list(numbers) for task, numbers in held.items()},
            "test": None if self.test is None else self.test.to_json(),
        }

    def lines(self) -> list[str]:
        """The check as lines of text; long lists of row numbers are shortened."""
        lines = self.report.lines()
        several = sum(self.formats.values()) > self.report.read  # pairs by a rule
        of = "pairs" if several else f"of {self.report.read} rows"
        lines += [f"format: {name} ({count} {of})" for name, count in self.formats.items()]
        lines += [f"prompt taken from the answers: {prompt!r}" for prompt in self.implicit_prompts]
        lines += [
            f"length of {what}, characters: {n.shortest} to {n.longest}, median {n.median:g}, mean {n.mean:.0f}"
            for what, n in self.lengths.items()
        ]
        if self.one_sided_prefix:
            share, numbers = self.one_sided_prefix_share, shorten_numbers(self.one_sided_prefix)
            lines.append(f"'Assistant: ' prefix on one answer only: {share:.1%} of rows ({numbers})")
        if self.longer_chosen is not None:
            lines.append(
                f"the chosen answer is the longer one in {self.longer_chosen:.1%} of rows (50%: length is no clue)"
            )
        if self.repeated_prompts:
            lines.append(f"prompt also in an earlier row: {shorten_numbers(self.repeated_prompts)}")
        if self.contradictions:
            lines.append(f"chosen and rejected swapped: {_pairs(self.contradictions, 'against row')}")
        if self.both_labels:
            lines.append(f"wanted and unwanted: {_pairs(self.both_labels, 'against row')}")
        if self.near_duplicates:
            of = "of row" if self.test is None else "of test row"
            lines.append(f"near-duplicate: {_pairs(self.near_duplicates, of)}")
        if self.prompts_on_both_sides is not None:
            numbers = shorten_numbers(self.prompts_on_both_sides) if self.prompts_on_both_sides else "none"
            lines.append(f"prompt also in the test rows: {numbers}")
        if self.conversations_on_both_sides:
            lines.append(f"conversation also in the test rows: {shorten_numbers(self.conversations_on_both_sides)}")
        if self.held_out is not None:
            lines += [f"held out by task {task}: {shorten_numbers(n)}" for task, n in self.held_out.items()] or [
                "held out by the memory's tasks: none"
            ]
        return lines + (self.test.lines() if self.test is not None else [])


def check_data(
    path: str | PathLike[str],
    recipe: str | None = None,
    test: str | PathLike[str] | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    held_out: Iterable[tuple[str, Row]] | None = None,
    **rules: Any,
) -> DataCheck:
    """Read rows as `learn` would and report everything found; a file without usable rows is not an error.

    Args:
        path: file or hub data set id.
        recipe: name of a recipe for upstream columns.
        test: file of held-out rows, to find prompts that are in both.
        seed: for recipes that choose one of several answers.
        columns: new name -> column of both files, renamed before the layout is recognised.
        held_out: rows that a memory's tasks hold out, each with the task; None: no memory to compare with.
        rules: `pairs`, `good_from` and `bad_to` of `SourceConfig`, for both files.

    Raises:
        ConfigError: unknown recipe, or a rule that is none.
        DataError: the source cannot be read or has the wrong columns.
    """
    found = read_source(source_of(fspath(path), recipe=recipe, columns=columns, **rules), seed)
    rows = found.rows
    both: tuple[int, ...] | None = None
    cut: tuple[int, ...] | None = None
    test_report = None
    if test is not None:
        other = read_source(source_of(fspath(test), recipe=recipe, columns=columns, **rules), seed)
        test_report = other.report
        near = near_duplicates(rows, found.numbers, other.rows, other.numbers)
        sides = _held_out(found, (("test", row) for row in other.rows))
        both, cut = sides.get((PROMPT, "test"), ()), sides.get((CONVERSATION, "test"), ())
    else:
        near = near_duplicates(rows, found.numbers)
    pairs = [row for row in rows if row.kind == "pair"]
    longer = [len(row.chosen) > len(row.rejected) for row in pairs if len(row.chosen) != len(row.rejected)]
    return DataCheck(
        report=found.report,
        formats=found.formats,
        lengths=_lengths(rows),
        one_sided_prefix=found.one_sided,
        one_sided_prefix_share=len(found.one_sided) / found.report.read if found.report.read else 0.0,
        longer_chosen=sum(longer) / len(longer) if longer else None,
        implicit_prompts=_implicit_prompts(found),
        repeated_prompts=_repeated(found),
        contradictions=tuple(contradictions(rows, found.numbers)),
        both_labels=tuple(both_labels(rows, found.numbers)),
        near_duplicates=tuple(near),
        prompts_on_both_sides=both,
        conversations_on_both_sides=cut,
        held_out=None if held_out is None else _by_task(_held_out(found, held_out)),
        test=test_report,
        rows=found,
    )


def _held_out(found: Cleaned, rows: Iterable[tuple[str, Row]]) -> dict[tuple[str, str], tuple[int, ...]]:
    """Prompt or conversation, and the task that holds it out -> numbers of the rows."""
    held, sides = HeldOut(rows), dict[tuple[str, str], list[int]]()
    for row, number in zip(found.rows, found.numbers, strict=True):
        if (side := held.find(row)) is not None:
            sides.setdefault(side, []).append(number)
    return {side: tuple(numbers) for side, numbers in sides.items()}


def _repeated(found: Cleaned) -> tuple[int, ...]:
    """Numbers of the rows whose prompt is also in an earlier one."""
    first: dict[str, int] = {}
    numbers = zip(found.rows, found.numbers, strict=True)
    return tuple(n for i, (row, n) in enumerate(numbers) if first.setdefault(prompt_key(row), i) != i)


def _by_task(sides: Mapping[tuple[str, str], tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    tasks = dict.fromkeys(task for _, task in sides)
    return {t: tuple(sorted(n for (_, task), numbers in sides.items() if task == t for n in numbers)) for t in tasks}


def _pairs(pairs: Sequence[tuple[int, int]], between: str) -> str:
    """Pairs of row numbers as text, e.g. "row 4 of test row 2"; a long list is shortened."""
    shown = ", ".join(f"row {one} {between} {other}" for one, other in pairs[:SHOWN_ROW_NUMBERS])
    more = len(pairs) - SHOWN_ROW_NUMBERS
    return shown + (f" and {more} more" if more > 0 else "")


def _implicit_prompts(found: Cleaned) -> tuple[str, ...]:
    numbers = set(found.report.repaired.get(SHARED_BEGINNING, ())[:SHOWN_PROMPTS])
    return tuple(r.prompt[-1].content for r, n in zip(found.rows, found.numbers, strict=True) if n in numbers)


def _lengths(rows: Sequence[Row]) -> dict[str, Lengths]:
    pairs, others = ([row for row in rows if (row.kind == "pair") == paired] for paired in (True, False))
    texts = {
        "prompt": [sum(len(m.content) for m in row.prompt) for row in rows],
        "chosen": [len(row.chosen) for row in pairs],
        "rejected": [len(row.rejected) for row in pairs],
        "answer": [len(row.answer) for row in others],
    }
    return {
        what: Lengths(min(n), float(statistics.median(n)), statistics.fmean(n), max(n))
        for what, n in texts.items()
        if n
    }
