"""Rows that can be learnt from and may teach the wrong thing: reversed scores, contradictions, near-duplicates.

They are named by row number and kept: whether they are wrong is for the owner of the rows to tell. Imports no torch.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lifealign.data.tasks import Row, RowKind, prompt_key
from lifealign.data.turns import number_of

if TYPE_CHECKING:
    from datasketch import MinHash

Scores = tuple[float, float]
"""Of the chosen and of the rejected answer."""

REVERSED = "the rejected answer has the higher score"
TIED = "both answers have the same score"
CONTRADICTION = "the same pair with chosen and rejected swapped"
BOTH_LABELS = "the same answer both wanted and unwanted"
MIXED = "{noun} in a file of mostly {main}"
FAMILIES: Mapping[RowKind, str] = {
    "pair": "pairs",
    "desirable": "labelled answers",
    "undesirable": "labelled answers",
    "demonstration": "demonstrations",
}
"""Kind of a row -> what rows of a file may be."""

SIDES = (("chosen", "rejected"), ("preferred", "non_preferred"), ("preferred", "rejected"), ("j", "k"))
"""How the names of two columns with scores tell the chosen answer's from the other's."""
SCORE_WORD = re.compile(r"(^|_)(scores?|ratings?|rewards?|grades?)(_|$)")
RANK_WORD = re.compile(r"(^|_)ranks?(_|$)")
MARGIN = re.compile(r"margin|(score|rating|reward)_(margin|gap|difference|diff)")

NEAR = 0.8
"""Jaccard similarity from which two texts are near-duplicates, 0..1."""
SHINGLE = 5
"""Characters of a shingle."""
PERMUTATIONS = 128
"""Of a MinHash; its standard error is about 0.09."""
CANDIDATE = 0.6
"""Similarity for which MinHash looks; low, so that its error hides few texts at `NEAR`. The exact one decides."""


def scores_of(record: Mapping[str, Any]) -> tuple[Scores, tuple[str, ...]] | None:
    """The scores of a record's two answers and their columns; None if it has none.

    Two columns whose names differ in the side alone, e.g. "score_chosen" and "score_rejected", or ranks, of which the
    lower is better; else a margin, which counts as a score against 0.
    """
    names = {str(name).casefold().replace("-", "_"): str(name) for name in record}
    for pattern, sign in ((SCORE_WORD, 1.0), (RANK_WORD, -1.0)):
        for plain in filter(pattern.search, names):
            for one, other in SIDES:
                counterpart = re.sub(rf"(^|_){one}(?=_|$)", rf"\g<1>{other}", plain)
                if counterpart == plain or counterpart not in names:
                    continue
                columns = names[plain], names[counterpart]
                chosen, rejected = (number_of(record[name]) for name in columns)
                if chosen is not None and rejected is not None:
                    return (sign * chosen, sign * rejected), columns
    for plain in filter(MARGIN.fullmatch, names):
        margin = number_of(record[names[plain]])
        if margin is not None:
            return (margin, 0.0), (names[plain],)
    return None


def doubts(rows: Sequence[Row], numbers: Sequence[int], scores: Sequence[Scores | None]) -> dict[str, tuple[int, ...]]:
    """Reason -> numbers of the rows that may teach the wrong thing, without reasons that no row has.

    Args:
        rows: the kept rows of one source.
        numbers: of each row.
        scores: of each row's answers, if known.
    """
    scored = [(number, found) for number, found in zip(numbers, scores, strict=True) if found is not None]
    swapped = sorted({number for pair in contradictions(rows, numbers) for number in pair})
    found = {
        REVERSED: tuple(number for number, (chosen, rejected) in scored if chosen < rejected),
        TIED: tuple(number for number, (chosen, rejected) in scored if chosen == rejected),
        CONTRADICTION: tuple(swapped),
        BOTH_LABELS: tuple(sorted({number for pair in both_labels(rows, numbers) for number in pair})),
        **other_kinds(rows, numbers),
    }
    return {reason: tuple(dict.fromkeys(named)) for reason, named in found.items() if named}


def other_kinds(rows: Sequence[Row], numbers: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Reason -> numbers of rows that are something else than most rows of their file, so that none is so by mistake."""
    counts = Counter(FAMILIES[row.kind] for row in rows)
    main = max(counts, key=counts.__getitem__, default=None)
    return {
        MIXED.format(noun=family, main=main): tuple(
            number for number, row in zip(numbers, rows, strict=True) if FAMILIES[row.kind] == family
        )
        for family in counts
        if family != main
    }


def both_labels(rows: Sequence[Row], numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Numbers of rows with one answer that is wanted here and unwanted there: a row, and the first earlier one against it.

    A demonstration counts as wanted. White space does not count, nor case in prompts.
    """
    first: dict[tuple[str, str, bool], int] = {}
    found = []
    for number, row in zip(numbers, rows, strict=True):
        if row.kind == "pair":
            continue
        prompt, answer, good = prompt_key(row), " ".join(row.answer.split()), row.kind != "undesirable"
        first.setdefault((prompt, answer, good), number)
        earlier = first.get((prompt, answer, not good))
        if earlier is not None:
            found.append((number, earlier))
    return found


def contradictions(rows: Sequence[Row], numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Numbers of rows that are one pair in both directions: a row, and the first earlier one that it contradicts.

    White space does not count, nor case in prompts. An answer that is chosen in one row and rejected against a third
    answer in another is a ranking, not a contradiction.
    """
    first: dict[tuple[str, str, str], int] = {}
    found = []
    for number, row in zip(numbers, rows, strict=True):
        if row.kind != "pair":
            continue
        prompt, chosen, rejected = prompt_key(row), " ".join(row.chosen.split()), " ".join(row.rejected.split())
        if chosen == rejected:
            continue
        first.setdefault((prompt, chosen, rejected), number)
        earlier = first.get((prompt, rejected, chosen))
        if earlier is not None:
            found.append((number, earlier))
    return found


def near_duplicates(
    rows: Sequence[Row],
    numbers: Sequence[int],
    others: Sequence[Row] | None = None,
    other_numbers: Sequence[int] = (),
) -> list[tuple[int, int]]:
    """Numbers of rows whose text is nearly that of one of `others` (None: of an earlier row), with the first such.

    Two rows are near-duplicates if their prompts (without system turns), or their prompts and answers together, share
    at least `NEAR` of their 5-character pieces (Jaccard). Case, punctuation and white space do not count. Prompts that are
    equal but for case and white space are never on both sides, so they are not named. MinHash finds the candidates.
    """
    within = others is None
    compared, compared_numbers = (rows, numbers) if others is None else (others, other_numbers)
    found: dict[int, int] = {}
    keys, other_keys = [prompt_key(row) for row in rows], [prompt_key(row) for row in compared]
    for whole in (False, True):
        texts = [_text(row, whole) for row in rows]
        for one, other in _similar(texts, texts if within else [_text(row, whole) for row in compared]):
            if keys[one] != other_keys[other] and not (within and other > one):
                found[one] = min(other, found.get(one, other))
    return [(numbers[one], compared_numbers[found[one]]) for one in sorted(found)]


def _text(row: Row, whole: bool) -> str:
    turns = [message.content for message in row.prompt if message.role != "system"]
    return " ".join(re.findall(r"\w+", " ".join([*turns, *((row.chosen, row.rejected) if whole else ())]).casefold()))


def _similar(texts: Sequence[str], others: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Positions of all texts and others that are near-duplicates."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=CANDIDATE, num_perm=PERMUTATIONS)
    pieces = [_shingles(text) for text in others]
    hashes = _minhashes(pieces)
    for position, hashed in enumerate(hashes):
        index.insert(position, hashed)
    asked = pieces if texts is others else [_shingles(text) for text in texts]
    for position, (shingles, hashed) in enumerate(
        zip(asked, hashes if texts is others else _minhashes(asked), strict=True)
    ):
        for other in sorted(index.query(hashed)):
            if len(shingles & pieces[other]) >= NEAR * len(shingles | pieces[other]):
                yield position, other


def _shingles(text: str) -> frozenset[str]:
    return frozenset(text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1)))


def _minhashes(pieces: Sequence[frozenset[str]]) -> list[MinHash]:
    from datasketch import MinHash

    encoded = ([piece.encode("utf-8") for piece in sorted(shingles)] for shingles in pieces)
    # In bulk, so that the permutations are drawn once; CRC32 spreads short texts as well as SHA-1 and is quicker.
    found: list[MinHash] = MinHash.bulk(encoded, num_perm=PERMUTATIONS, seed=1, hashfunc=zlib.crc32)
    return found
