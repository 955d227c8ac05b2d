"""Rank the tasks of a memory by likeness to rows, and recombine them: `signatures` and `composing` on stored tasks.

Nothing here writes to the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lifealign.consolidation import composing as compose
from lifealign.core.errors import DataError
from lifealign.data.tasks import Message, Row, Task
from lifealign.evaluation import catalog
from lifealign.memory import signatures
from lifealign.memory.composer import Composer, why_not_summed
from lifealign.memory.early import check_rows
from lifealign.memory.exporting import write_export
from lifealign.memory.outcomes import Composition, Related, RelatedTask
from lifealign.memory.routing import prompt_features, stored_depth, stored_signatures
from lifealign.memory.rules import Rules, find_rules
from lifealign.memory.session import Session
from lifealign.memory.updates import update_of
from lifealign.model.adapters import restore, snapshot
from lifealign.model.encoding import EncodedPair
from lifealign.store.heldout import heldout, without_rows
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.strategies import Strategy
from lifealign.training.feedback import with_others
from lifealign.training.loop import Loop, Stage, train_stage
from lifealign.training.schedule import row_order

# --- likeness and forecast --------------------------------------------------------------------------------------------


def relate(session: Session, store: MemoryReader, until: TaskManifest, rows: Sequence[Row], steps: int) -> Related:
    """Rank the tasks of a memory by likeness to rows, and forecast what learning the rows would do to each.

    Args:
        session: of the memory; holds the weights after `until` afterwards.
        store: the memory.
        until: the commit that the rows would be learnt on.
        rows: new rows, at least one that can be encoded.
        steps: gradient steps of the forecast, each on `train.pairs_per_step` rows; 0: no forecast.

    Raises:
        DataError: no task learnt yet, or no row can be used.
    """
    known = stored_signatures(store, until)
    if not known:
        raise DataError(f"{store.path}: no task learnt up to {until.directory} to compare with; learn a task first")
    pairs, _ = session.encoder.encode(rows)
    rows = [rows[p.position] for p in pairs]
    why = dict.fromkeys(known, "learnt before signatures were kept")
    why |= dict.fromkeys(without_rows(store, until), "its rows were not given")
    notes = [f"{name}: no signature ({why[name]})" for name, s in known.items() if s is None]
    signed = {name: s for name, s in known.items() if s is not None}
    session.load(store, until)
    near: dict[str, tuple[float, float]] = {}
    features = prompt_features(session.view, session.encoder, rows, session.config.seed, "related", stored_depth(store))
    if signed and features is not None:
        every = list(signed.values())
        gaps = signatures.distances(features.double().mean(0, keepdim=True), every)[0]
        first = signatures.distances(features, every).argmin(1)
        shares = [float((first == t).double().mean()) for t in range(len(every))]
        near = dict(zip(signed, zip(gaps.tolist(), shares, strict=True), strict=True))
    overlaps: dict[str, float | None] = {}
    if steps and not session.strategy.sums_updates:
        notes.append(f"no forecast: {why_not_summed(session.config.strategy.name)}")
        steps = 0
    elif steps:
        overlaps = forecast(session, store, until, rows, steps)
    tasks = []
    for name in known:
        distance, nearest = near.get(name, (None, None))
        tasks.append(RelatedTask(name, distance, nearest, overlaps.get(name)))
    tasks.sort(key=lambda t: math.inf if t.distance is None else t.distance)
    return Related(len(rows), steps, tuple(tasks), tuple(notes))


def forecast(
    session: Session, store: MemoryReader, until: TaskManifest, rows: Sequence[Row], steps: int
) -> dict[str, float | None]:
    """Task -> overlap of what a few steps on the rows change with what the task changed.

    The steps are a preference stage of the training loop at its peak learning rate, with the plain objective of the
    strategy and without its hooks, from the weights that the model holds and gets back afterwards.

    Raises:
        TrainingError: a loss or gradient is not finite.
    """
    before = snapshot(session.model)
    try:
        train_stage(*_forecast_stage(session, rows, steps))
        after = snapshot(session.model)
    finally:
        restore(session.model, before)
    return {name: compose.overlap((before, after), own) for name, own in update_of(store, until).items()}


def _forecast_stage(session: Session, rows: Sequence[Row], steps: int) -> tuple[Loop, Stage]:
    """Steps of `train.pairs_per_step` rows each, epoch after epoch, the last rows of an epoch with the first of the next."""
    # Plain: nothing is skipped or divided by focal weights, and trackers see nothing.
    config = session.config.train.model_copy(update={"trackers": (), "skip_weight_below": 0.0})
    objective = session.strategy.objective.config.model_copy(update={"normalise_weights": False})
    plain = Strategy(objective, session.config.lora, session.config.seed)
    order: list[int] = []
    for epoch in range(math.ceil(steps * config.pairs_per_step / len(rows))):
        order += row_order(session.config.seed, "related", "forecast", epoch, len(rows))
    pairs, windows, references = list[EncodedPair](), list[range](), list[Tensor]()
    for index in range(steps):
        # Step by step: what is encoded together decides how rows are padded and packed, and so the last bits.
        drawn = order[index * config.pairs_per_step :][: config.pairs_per_step]
        window, _ = session.encoder.encode([rows[i] for i in drawn])
        windows.append(range(len(pairs), len(pairs) + len(window)))
        pairs += window
        references.append(session.view.reference(window, title="reference", beyond=plain.objective.beyond))
    every, feedback = with_others(pairs, objective)
    references.append(session.view.reference(every[len(pairs) :], title="reference"))
    shared, run = session.view.shared_prefix(pairs), session.config
    loop = Loop("forecast", session.model, plain, config, run.seed, shared, session.accelerator)
    loop.tokens_per_pack = session.view.tokens_per_pack(pairs)
    rates, reference = [config.learning_rate] * steps, torch.cat(references)
    return loop, Stage("preference", windows, rates, every, reference, session.view.losses_on, feedback, False)


# --- composing -------------------------------------------------------------------------------------------------------


def score_composed(
    session: Session,
    store: MemoryReader,
    until: TaskManifest,
    adapter: Mapping[str, Tensor],
    tasks: Sequence[Task],
    split: str,
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean scores of held-out rows with the stored and with the composed weights; nothing is recorded.

    Args:
        session: of the memory; holds the composed weights afterwards.
        store: the memory.
        until: the commit that was recomposed.
        adapter: of `Composer`.
        tasks: with held-out rows; a task without any is left out.
        split: `test` or `validation`.
    """
    options = session.config.evaluate
    found: dict[str, dict[str, dict[str, float]]] = {}
    rules = find_rules(tasks, store) if options.generations else Rules()
    session.warn(rules.warnings)
    session.load_sum(store, until)
    for which in ("stored", "composed"):
        if which == "composed":
            restore(session.model, adapter)
        for task in tasks:
            rows = getattr(task, split)[: options.rows]
            if not rows:
                continue
            scores = session.score(
                task.name,
                rows,
                rules.of(task),
                generations=options.generations,
                max_new_tokens=options.max_new_tokens,
                title=f"{which}: score {task.name}",
            )
            for metric, given in scores.rows.items():
                scale, values = catalog.score(metric).scale, [value for value in given if value is not None]
                mean = scale * sum(values) / len(values) if values else math.nan
                found.setdefault(task.name, {}).setdefault(metric, {})[which] = mean
    return found


def recompose(
    session: Callable[[], Session],
    store: MemoryReader,
    until: TaskManifest,
    weights: Mapping[str, float],
    space: str | None,
    split: str,
    out: Path | None,
) -> Composition:
    """Weigh tasks differently and write the adapter, or score it if `out` is None; see `Memory.compose`.

    Args:
        session: makes the session of the memory, after all checks that need no model.
        store: the memory.
        until: the commit to recompose.
        weights: task -> weight of its update; 1 if none is given.
        space: see `Composer`.
        split: held-out rows to score.
        out: a free directory for a PEFT adapter; the session cannot be used for anything else afterwards.

    Raises:
        ConfigError: see `Composer`.
        DataError: no task has rows to score.
        StoreError: no such task, or `out` cannot be written.
    """
    composer = Composer(store, until, space)
    every = composer.weights(weights)
    made = composer(every)
    kept = heldout(store, until)
    if out is None and not any(getattr(t, split) for t in kept):
        check_rows(store, kept, split)
    loaded = session()
    scores = None
    if out is None:
        scores = score_composed(loaded, store, until, made.adapter, kept, split)
    else:
        loaded.load_sum(store, until)
        restore(loaded.model, made.adapter)
        given = ", ".join(f"{name}={weight:g}" for name, weight in every.items())
        note = f"composed with the weights {given}; the scores of the card are those of the memory as it is stored"
        write_export(loaded, store, until, out, "peft", notes=[note])
    return Composition(until.directory, every, composer.space, made.truncation_error, made.change, out, scores)


def generate_recomposed(
    session: Session,
    store: MemoryReader,
    until: TaskManifest,
    prompts: Sequence[str | Sequence[Message]],
    weights: Mapping[str, float],
    options: Mapping[str, Any],
) -> list[str]:
    """Answers of composed weights, in the order of the prompts; see `Memory.generate`.

    Args:
        session: of the memory; holds composed weights afterwards.
        store: the memory.
        until: the commit to recompose.
        prompts: each one user turn, or a conversation that ends with one.
        weights: task -> weight of its update; 1 if none is given.
        options: of `generate.generate`.

    Raises:
        ConfigError: see `Composer`.
        StoreError: an unknown task.
    """
    composer = Composer(store, until)
    session.load_sum(store, until)
    restore(session.model, composer(composer.weights(weights)).adapter)
    return session.generate(prompts, **options)
