"""The guard of general ability, measured before any task and again after each one.

Perplexity of a text, and accuracy on multiple-choice questions. No task trains on either, so any loss is the cost of
alignment ("alignment tax", Askell et al. 2021, arXiv 2112.00861).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lifealign.core.config import GuardConfig
from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.core.files import file_sha256, read_text
from lifealign.data.sources import Record, expand_path, read_file
from lifealign.data.tasks import Message, Row
from lifealign.evaluation.guard_results import same_probe
from lifealign.evaluation.records import read_records
from lifealign.model.encoding import EncodedPair
from lifealign.store.layout import GUARD_RECORD, WARNINGS
from lifealign.store.reader import place

if TYPE_CHECKING:
    from lifealign.memory.session import Session
    from lifealign.store.manifest import TaskManifest
    from lifealign.store.writer import MemoryStore


@dataclass(frozen=True)
class Question:
    """One multiple-choice question.

    Attributes:
        question: text, the user turn.
        choices: two or more different answers.
        answer: position of the right one, from 0.
        source: ``file: row N``, for messages.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    source: str


def read_questions(path: str) -> list[Question]:
    """Questions of a jsonl, json, parquet or csv file with `question`, `choices` and `answer` (a position from 0).

    Raises:
        DataError: a missing or empty file, or a row that is not a question; names the file and the row.
    """
    rows = read_file(path)
    if not rows:
        raise DataError(f"{path}: contains no question")
    return [_question(row, f"{path}: row {number}") for number, row in enumerate(rows, 1)]


def _question(row: Record, where: str) -> Question:
    if missing := [name for name in ("question", "choices", "answer") if row.get(name) is None]:
        raise DataError(f"{where}: no {missing[0]!r}; expected question, choices and answer, got {sorted(row)}")
    question, choices, answer = row["question"], row["choices"], row["answer"]
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: question must be non-blank text, got {question!r}")
    if not isinstance(choices, list | tuple) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise DataError(f"{where}: choices must be a list of non-blank texts, got {choices!r}")
    if len(set(choices)) != len(choices) or len(choices) < 2:
        raise DataError(f"{where}: expected two or more choices, all different, got {choices!r}")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(f"{where}: answer must be a position from 0 to {len(choices) - 1}, got {answer!r}")
    return Question(question, tuple(choices), answer, where)


def text_windows(ids: Sequence[int], window: int, stride: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(context, scored) of each window: every id but the first is scored once, with as much context as fits.

    Args:
        ids: of the text; the first is context only.
        window: ids of a window, context included. 2 <= window.
        stride: ids scored in each window after the first; the first scores all its ids but one. 1 <= stride < window.
    """
    found = []
    done = 1
    while done < len(ids):
        end = min(len(ids), window if done == 1 else done + stride)
        start = max(0, end - window)
        found.append((tuple(ids[start:done]), tuple(ids[done:end])))
        done = end
    return found


def probes(guard: GuardConfig) -> dict[str, dict[str, Any]]:
    """Probe (`text`, `choices`) -> options that decide its values besides the weights; only configured probes.

    Raises:
        StoreError: a file cannot be read.
        DataError: a variable in its path is not set.
    """
    found: dict[str, dict[str, Any]] = {}
    if guard.text is not None:
        found["text"] = {"window": guard.window, "stride": guard.stride, "tokens": guard.tokens}
    if guard.choices is not None:
        found["choices"] = {"questions": guard.questions}
    for probe, options in found.items():
        path = str(getattr(guard, probe))
        options |= {"path": path, "sha256": file_sha256(expand_path(path))}
    return found


def score_guard(
    session: Session,
    store: MemoryStore,
    after: TaskManifest,
    guard: GuardConfig,
    refused: StoreError | None = None,
) -> None:
    """Measure the configured probes with the weights as they were after `after`, unless they are stored already.

    The memory must be locked by the caller. One evaluation record per probe: `scores` of the text has `nll` (nats) and
    `tokens` of each window; of the questions `correct` (0 or 1) of each, and `left_out`, how many do not fit the model's context.

    Raises:
        ConfigError: a window longer than the model's context.
        DataError: an empty file, or a row that is not a question.
        StoreError: `refused`, if there is something to measure and nothing can be written.
    """
    for probe, options in probes(guard).items():
        wanted = {"probe": probe, **options}
        if any(
            r["kind"] == GUARD_RECORD and r["after"] == after.directory and same_probe(r["options"], wanted)
            for r in read_records(store)
        ):
            continue
        if refused is not None:
            raise refused
        session.load(store, after)
        session.strategy.select(session.model, None)
        title = f"{place(after)}: guard, {probe}"
        scores = (_score_text if probe == "text" else _score_choices)(session, guard, title)
        if session.accelerator.is_main_process:
            record = {"kind": GUARD_RECORD, "after": after.directory, "options": wanted, "scores": scores}
            store.append_evaluation({**record, **({WARNINGS: list(session.changed)} if session.changed else {})})
        session.accelerator.wait_for_everyone()


def _score_text(session: Session, guard: GuardConfig, title: str) -> dict[str, Any]:
    path = expand_path(str(guard.text))
    longest = session.base.positions
    if guard.window > longest:
        raise ConfigError(
            f"guard.window={guard.window}: the base model's context is {longest} tokens; allowed: 2 to {longest}"
        )
    text = read_text(path, DataError)
    ids = session.encoder.text_ids(text)[: guard.tokens]
    if len(ids) < 2:
        raise DataError(f"{path}: {len(ids)} token(s); perplexity needs at least two; give a longer text")
    windows = text_windows(ids, guard.window, guard.stride)
    pairs = [EncodedPair(context, new, new, False, False, "", i) for i, (context, new) in enumerate(windows)]
    sums = session.chosen_logps(pairs, title)
    return {"nll": [-value for value in sums], "tokens": [len(new) for _, new in windows]}


def _score_choices(session: Session, guard: GuardConfig, title: str) -> dict[str, Any]:
    questions = read_questions(expand_path(str(guard.choices)))[: guard.questions]
    rows = [
        # The other answer is not scored here; it only completes the row.
        Row((Message("user", q.question),), choice, q.choices[i - 1], q.source)
        for q in questions
        for i, choice in enumerate(q.choices)
    ]
    owners = [(k, i) for k, q in enumerate(questions) for i in range(len(q.choices))]
    # Without the closing token, as is usual for choices: how an answer ends does not show knowledge.
    pairs = [replace(p, chosen=p.chosen[: None if p.chosen_cut else -1]) for p in session.encoder.encode(rows)[0]]
    sums = session.chosen_logps(pairs, title)
    means: dict[int, dict[int, float]] = {}
    for pair, value in zip(pairs, sums, strict=True):
        question, choice = owners[pair.position]
        means.setdefault(question, {})[choice] = value / pair.chosen_tokens
    whole = {k: found for k, found in means.items() if len(found) == len(questions[k].choices)}
    correct = [float(max(found, key=found.__getitem__) == questions[k].answer) for k, found in sorted(whole.items())]
    return {"correct": correct, "left_out": len(questions) - len(correct)}
