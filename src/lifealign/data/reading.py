"""From a source's records to triples: the layout of each record, and what was left unread. Imports no torch.

Everything that depends on the whole source is decided here: whether its columns are known, and whether a prompt may be
taken from the beginning of the answers.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lifealign.core.errors import DataError
from lifealign.data.comparisons import Columns
from lifealign.data.formats import FORMATS, NO_PROMPT_END, Parsed, Triple, parse, read_outside
from lifealign.data.labels import Labels
from lifealign.data.layouts import IMPLICIT, SYSTEM, Layout, names_of, recognise, refuse_if_nothing_to_learn
from lifealign.data.sources import Record, columns_of
from lifealign.data.turns import UnusableRowError, is_empty, parse_dialogue, turns_or_text, unread_fields
from lifealign.data.unread import MEDIA, TOOLS, describe, may_be_prompt
from lifealign.data.verdicts import Rules, pairs_of

if TYPE_CHECKING:
    from lifealign.data.recipes import Recipe

PAIR = ("chosen", "rejected")
FEW = 0.5
"""Share of rows without a usable common beginning above which a source has no prompts in its answers."""


@dataclass
class Reader:
    """Reads the records of one source, one after another.

    Attributes:
        source: file or hub id, for messages.
        recipe: maps the upstream columns of a public set; None: layouts are recognised.
        seed: for recipes that choose one of several answers.
        names: `names_of` all records.
        outside: names of the registered formats, which are tried first.
        has_prompts: whether a column of the source holds prompts; without one, they are taken from the answers.
        labels: reads the labels of single answers; has the user's rules.
        used: registered formats that read records, or rejected some.
        layouts: title -> rows that have the layout.
        columns: title -> column that is read -> whether a row holds something in it; in order of first use.
        values: column -> one value of each row in which it holds something and was not read.
    """

    source: str
    recipe: Recipe | None
    seed: int
    names: frozenset[str]
    outside: tuple[str, ...]
    has_prompts: bool
    labels: Labels
    used: set[str] = field(default_factory=set)
    layouts: Counter[str] = field(default_factory=Counter)
    columns: dict[str, dict[str, bool]] = field(default_factory=dict)
    values: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, records: Sequence[Record], source: str, recipe: Recipe | None, seed: int, rules: Rules | None = None
    ) -> Reader:
        """A reader of these records.

        Raises:
            DataError: the columns match no layout, or no column holds a prompt and the answers do not begin with one.
            NotRowsError: the rows are known and hold nothing to learn from.
        """
        names = frozenset(name for record in records for name in names_of(record))
        recognised = [None if recipe else recognise(record, names) for record in records]
        layouts = [known[0] for known in recognised if known is not None]
        has_prompts = any(layout.kind == "pairs" and layout.title != IMPLICIT for layout in layouts)
        outside = () if recipe else tuple(sorted(FORMATS.outside()))
        reader = cls(source, recipe, seed, names, outside, has_prompts, Labels.of(records, rules))
        if records and not any(reader._knows(record) for record in records):
            reader._check(records, recognised)
        return reader

    def _check(self, records: Sequence[Record], recognised: Sequence[tuple[Layout, Columns] | None]) -> None:
        found = columns_of(records)
        if self.recipe is not None:
            if not ({*PAIR} <= set(found) or self.recipe.reads(found)):
                raise _wrong_columns(found, self.source, self.recipe)
            return
        if not any(recognised):
            raise _wrong_columns(found, self.source, None)
        refuse_if_nothing_to_learn(recognised, self.source)
        if not self.has_prompts:
            self._check_beginnings([record for record in records if _is_bare(record)], found)

    def _check_beginnings(self, records: Sequence[Record], found: Sequence[str]) -> None:
        """Check the texts that must hold their prompts themselves."""
        texts = [
            name
            for name in found
            if name not in (*PAIR, *SYSTEM, *MEDIA, *TOOLS)
            and any(may_be_prompt(name, record.get(name)) for record in records)
        ]
        if texts:
            raise DataError(
                f"{self.source}: no prompt: chosen and rejected are texts, and none of the columns found "
                f"({', '.join(found)}) is known as the prompt; rename the one that holds it to `prompt`"
            )
        without = [record for record in records if not _begins_with_prompt(record)]
        if len(without) > FEW * len(records):
            raise DataError(
                f"{self.source}: no prompt: the columns are {', '.join(found)}, and in {len(without)} of {len(records)} "
                f"rows {NO_PROMPT_END}; add a column `prompt`"
            )

    def read(self, record: Record) -> tuple[Triple | Parsed, ...]:
        """The prompt and the answers of one record; several pairs, if the rule for pairs makes them of its answers.

        Raises:
            UnusableRowError: the row cannot be used; gives the reason.
        """
        found = self._read(record)
        return (
            pairs_of(found, self.labels.rules.pairs, self.labels.rules.transform)
            if isinstance(found, Triple)
            else (found,)
        )

    def _read(self, record: Record) -> Triple | Parsed:
        if self.recipe is not None:
            return self._by_recipe(record, self.recipe)
        outside = self._outside(record)
        if outside is not None:
            if isinstance(outside, Triple) and outside.read is not None:
                self._note_unread(record, outside.read, outside.unread)
            return self.labels.settle(outside, record) if isinstance(outside, Triple) else outside
        known = recognise(record, self.names)
        if known is None:
            raise UnusableRowError("the columns of this row match no layout")
        layout, columns = known
        if layout.title == IMPLICIT and self.has_prompts and _is_bare(record):
            raise UnusableRowError("prompt is missing")
        try:
            triple = self.labels.settle(layout.triple(record, columns), record)
        except UnusableRowError:
            self.layouts[layout.title] += 1
            raise
        self._note(layout.title, record, triple.read or (), triple.unread)
        return triple if self.has_prompts else replace(triple, no_prompt_column=True)

    def _outside(self, record: Record) -> Triple | Parsed | None:
        """What the first registered format that knows the record makes of it; None if none does."""
        try:
            found = read_outside(record, self.outside)
        except UnusableRowError as reason:
            self.used |= {reason.format} if reason.format else set()
            raise
        if found is None:
            return None
        self.used.add(found[0])
        return found[1]

    def _knows(self, record: Record) -> bool:
        """Whether a registered format knows the record."""
        try:
            return self._outside(record) is not None
        except UnusableRowError:  # a format knows the record and rejects it
            return True

    def _by_recipe(self, record: Record, recipe: Recipe) -> Triple:
        prompt = record.get("prompt") if record.get("prompt") is not None else record.get("query")
        if recipe.reads(list(record)):
            seed = f"{self.seed}/{recipe.name}/{sorted(map(str, record.items()))}"
            triple = recipe.from_upstream(record, random.Random(seed))
            used = next(columns for columns in recipe.columns if set(columns) <= set(record))
        else:
            seed = f"{self.seed}/{recipe.name}/{prompt}/{record.get('rejected')}"
            triple = recipe.repair(Triple(prompt, record.get("chosen"), record.get("rejected")), random.Random(seed))
            used = ("prompt", "query", *PAIR)
        self._note(f"recipe {recipe.name}", record, used, ())
        return triple

    def _note(self, title: str, record: Record, used: Sequence[str], parts: Sequence[str]) -> None:
        self.layouts[title] += 1
        columns = self.columns.setdefault(title, {})
        for name in used:
            columns[name] = columns.get(name, False) or not is_empty(record.get(name))
        self._note_unread(record, used, parts)

    def _note_unread(self, record: Record, used: Sequence[str], parts: Sequence[str]) -> None:
        for name, value in record.items():
            if name not in used and not is_empty(value) and name not in (*MEDIA, *TOOLS):
                self.values.setdefault(str(name), []).append(value)
        there = [name for name in used if not is_empty(record.get(name))]
        fields = (f"{name}[].{part}" for name in there for part in unread_fields(record[name]))
        for part in dict.fromkeys((*parts, *fields)):
            self.values.setdefault(part, []).append(None)

    def named_layouts(self) -> dict[str, int]:
        """Title and columns of each layout -> rows that have it, in order of first appearance."""
        shown = {t: ", ".join(n for n, held in self.columns.get(t, {}).items() if held) for t in self.layouts}
        return {f"{title} ({shown[title]})" if shown[title] else title: n for title, n in self.layouts.items()}

    def formats(self) -> dict[str, Mapping[str, Any]]:
        """Registered formats that were used -> their origin."""
        return {name: FORMATS.origin(name).to_json() for name in sorted(self.used)}

    def unread(self) -> dict[str, str]:
        """Columns that were not read -> what they may mean."""
        return {name: describe(name, values) for name, values in self.values.items()}


def _is_bare(record: Record) -> bool:
    """Whether both answers are texts that hold no dialogue and no messages."""
    try:
        answers = [turns_or_text(record.get(name)) for name in PAIR]
    except UnusableRowError:
        return False
    return all(isinstance(text, str) and text and parse_dialogue(text) is None for text in answers)


def _begins_with_prompt(record: Record) -> bool:
    try:
        parse(Triple(None, record["chosen"], record["rejected"], no_prompt_column=True))
    except UnusableRowError:
        return False
    return True


def _wrong_columns(found: Sequence[str], source: str, recipe: Recipe | None) -> DataError:
    from lifealign.data.recipes import RECIPES

    needed = (
        "prompt (or query), chosen, rejected; or chosen and rejected that both begin with the prompt; or prompt and "
        "completion, with a label or without"
    )
    if recipe is not None:
        needed += f"; or, for recipe {recipe.name}, {recipe.upstream}"
    fitting = [r.name for r in RECIPES.values() if recipe is None and r.reads(found)]
    hint = f"; these columns match recipe: {', '.join(fitting)}" if fitting else ""
    if recipe is None and not fitting:
        hint = "; if they have other names, say which is which: --map prompt=COLUMN --map chosen=COLUMN --map rejected=COLUMN"
    return DataError(f"{source}: wrong columns: found {', '.join(found) or 'none'}; needed {needed}{hint}")
