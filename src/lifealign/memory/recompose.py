"""Rank, weigh and recombine the tasks of a memory: `signatures` and `composing` on stored tasks.

Nothing here writes to the memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lifealign.consolidation import composing as compose
from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.data.tasks import Message, Row, Task, turns_of
from lifealign.evaluation import catalog
from lifealign.memory import signatures
from lifealign.memory.exporting import write_export
from lifealign.memory.outcomes import Composition, Related, RelatedTask
from lifealign.memory.rules import Rules, find_rules
from lifealign.memory.scoring import check_rows
from lifealign.memory.session import Session, stored_strategy
from lifealign.memory.signatures import Signature
from lifealign.memory.updates import in_weights, steps_of, update_of
from lifealign.model.adapters import restore, snapshot
from lifealign.model.encoding import EncodedPair
from lifealign.store.heldout import heldout, without_rows
from lifealign.store.layout import SIGNATURE
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import retired, words
from lifealign.strategies import STRATEGIES, Strategy
from lifealign.training.feedback import with_others
from lifealign.training.loop import Loop, Stage, train_stage
from lifealign.training.schedule import row_order

TEMPERATURE = 0.5
"""Default temperature of routing; see docs/explanation/recompose.md."""


# --- signatures -------------------------------------------------------------------------------------------------------


def prompt_features(session: Session, rows: Sequence[Row], seed: int, name: str) -> Tensor | None:
    """Features [N, D] of at most `signatures.PROMPTS` prompts, drawn with the seed; None if no prompt fits."""
    every = (session.encoder.prompt_ids(rows[i].prompt) for i in row_order(seed, name, "signature", 0, len(rows)))
    prompts = list(itertools.islice((i for i in every if 0 < len(i) < session.encoder.max_length), signatures.PROMPTS))
    return session.view.features(prompts) if prompts else None


def task_signatures(session: Session, tasks: Sequence[Task], seed: int) -> dict[str, Tensor]:
    """Signatures of the tasks' training prompts for a commit; a task without a usable prompt is left out."""
    features = {task.name: prompt_features(session, task.train, seed, task.name) for task in tasks}
    return signatures.to_tensors({n: signatures.make_signature(x) for n, x in features.items() if x is not None})


def stored_signatures(store: MemoryReader, until: TaskManifest) -> dict[str, Signature | None]:
    """Signature of every task up to a commit, in the order they were learnt; None if it has none."""
    found: dict[str, Signature | None] = {}
    gone = retired(store, until)
    for manifest in in_weights(store, until):
        known = f"{SIGNATURE}.safetensors" in manifest.files
        own = signatures.from_tensors(store.load_tensors(manifest, SIGNATURE)) if known else {}
        found |= {name: own.get(name) for name in manifest.members if name not in gone}
    return found


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
    features = prompt_features(session, rows, session.config.seed, "related")
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


# --- composing --------------------------------------------------------------------------------------------------------


class Composer:
    """Long-term weights of a memory up to a commit, with any weights for its tasks.

    Args:
        store: the memory.
        until: the commit.
        space: see `composing.compose`; None: the space that the strategy consolidates in, else `factors`.

    Raises:
        ConfigError: the strategy's memory is not a sum of updates, or not in this space.
    """

    def __init__(self, store: MemoryReader, until: TaskManifest, space: str | None = None) -> None:
        strategy = stored_strategy(store)
        own = strategy.update_space
        if not strategy.sums_updates:
            raise ConfigError(f"{store.path}: {why_not_summed(store.identity['config']['strategy']['name'])}")
        if space not in (None, "factors", "delta_w"):
            raise ConfigError(f"space {space!r}: allowed: factors, delta_w")
        if own == "delta_w" and space == "factors":
            raise ConfigError(
                f"{store.path}: space factors: this memory was consolidated in delta_w, where the factors are split "
                "again after each task, so their differences are not updates; allowed: delta_w"
            )
        self.store, self.until = store, until
        self.space: compose.Space = "delta_w" if "delta_w" in (space, own) else "factors"
        self.names = [m.name for m in in_weights(store, until)]
        self._points, self._steps = steps_of(store, until)
        self._seed = strategy.seed

    def weights(self, given: Mapping[str, float]) -> dict[str, float]:
        """A weight for every task; 1 if none is given.

        Raises:
            StoreError: no such task up to the commit.
            ConfigError: a weight that is not finite.
        """
        known = {key: m.name for m in in_weights(self.store, self.until) for key in (m.directory, m.name)}
        weights = dict.fromkeys(self.names, 1.0)
        for name, weight in given.items():
            if name not in known:
                gone = retired(self.store, self.until)
                why = f" ({words(self.store, name, gone[name])})" if name in gone else ""
                raise StoreError(
                    f"{self.store.path}: no task {name!r} up to {self.until.directory}{why}; known: {', '.join(self.names) or 'none'}"
                )
            if not math.isfinite(weight):
                raise ConfigError(f"weight {name}={weight} is not finite; give a finite number")
            weights[known[name]] = float(weight)
        return weights

    def __call__(self, weights: Mapping[str, float]) -> compose.Composed:
        """See `composing.compose`."""
        each = [1.0 if name is None else weights[name] for name in self._steps]
        return compose.compose(self._points, each, self.space, self._seed)

    def routed(self, session: Session, prompts: Sequence[Sequence[int]], temperature: float) -> list[dict[str, float]]:
        """Weights for each prompt by its likeness to the tasks (`signatures.route`).

        Args:
            session: of the memory.
            prompts: token ids.
            temperature: 0 < temperature.

        Raises:
            StoreError: a task has no signature, or no task is learnt.
            ConfigError: the temperature is out of range.
        """
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ConfigError(f"route temperature {temperature}: expected a finite number greater than 0")
        # An adapter that the memory began with, and whose rows are not known, is part of every answer.
        always = dict.fromkeys(without_rows(self.store, self.until), 1.0)
        known = {n: s for n, s in stored_signatures(self.store, self.until).items() if n not in always}
        if missing := [name for name, s in known.items() if s is None]:
            raise StoreError(
                f"{self.store.path}: no signature for {', '.join(missing)} (learnt before signatures were kept), so "
                "prompts cannot be routed; give weights instead, or learn the tasks again"
            )
        if not known:
            raise StoreError(
                f"{self.store.path}: no task learnt up to {self.until.directory} to route to; learn a task first"
            )
        gaps = signatures.distances(session.view.features(prompts), [s for s in known.values() if s is not None])
        return [always | dict(zip(known, row, strict=True)) for row in signatures.route(gaps, temperature).tolist()]

    def groups(
        self, session: Session, prompts: Sequence[Sequence[int]], temperature: float
    ) -> list[tuple[dict[str, float], list[int]]]:
        """Group prompts that are routed to the same weights: the weights, and the prompts' positions."""
        found: dict[tuple[float, ...], list[int]] = {}
        for i, weights in enumerate(self.routed(session, prompts, temperature)):
            found.setdefault(tuple(weights[name] for name in self.names), []).append(i)
        return [(dict(zip(self.names, key, strict=True)), members) for key, members in found.items()]


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
    session.load(store, until)
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
        loaded.load(store, until)
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
    temperature: float | None,
    options: Mapping[str, Any],
) -> list[str]:
    """Answers of composed weights, in the order of the prompts; see `Memory.generate`.

    Args:
        session: of the memory, with the weights after `until`; holds composed weights afterwards.
        store: the memory.
        until: the commit to recompose.
        prompts: each one user turn, or a conversation that ends with one.
        weights: task -> weight of its update; 1 if none is given.
        temperature: of routing, which weighs the tasks for each prompt; None: `weights` for all prompts.
        options: of `generate.generate`.

    Raises:
        ConfigError: see `Composer`; or the temperature is out of range.
        StoreError: an unknown task, or one without a signature.
    """
    composer = Composer(store, until)
    groups = [(composer.weights(weights), list(range(len(prompts))))]
    if temperature is not None:
        ids = [session.encoder.prompt_ids(turns_of(prompt)) for prompt in prompts]
        groups = composer.groups(session, ids, temperature)
    answers = [""] * len(prompts)
    for chosen, members in groups:
        restore(session.model, composer(chosen).adapter)
        for i, text in zip(members, session.generate([prompts[i] for i in members], **options), strict=True):
            answers[i] = text
    return answers


def why_not_summed(strategy: str) -> str:
    """Why the tasks of a memory of this strategy cannot be weighted."""
    able = ", ".join(sorted(name for name, cls in STRATEGIES.items() if cls.sums_updates))
    return (
        f"strategy {strategy} does not keep the sum of its tasks' updates in one adapter, so tasks cannot be weighted; "
        f"strategies that do: {able}"
    )
