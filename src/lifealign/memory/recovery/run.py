"""Recover an earlier task of a memory from its prompts alone: `loop` on stored tasks; see docs/how-to/recover.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lifealign.core.errors import ConfigError, DataError
from lifealign.data.tasks import Row
from lifealign.memory.exporting import write_export
from lifealign.memory.outcomes import Recovery
from lifealign.memory.recovery.config import BATCH, CHECKED, PROMPTS, RecoverOptions, Space
from lifealign.memory.recovery.kept import commit, document_of
from lifealign.memory.recovery.loop import Recoverer
from lifealign.memory.recovery.points import Points, Prompts
from lifealign.memory.recovery.spaces import AdapterSpace, MergedSpace, check_strategy, make_space
from lifealign.memory.session import Session, locked
from lifealign.model.adapters import snapshot
from lifealign.model.representation import default_layer, last_hidden, layers_of
from lifealign.store.heldout import heldout
from lifealign.store.writer import MemoryStore
from lifealign.training.schedule import row_order


def recover(
    session: Callable[[], Session],
    store: MemoryStore,
    points: Points,
    options: RecoverOptions,
    space: Space,
    out: Path | None,
    note: str | None,
) -> Recovery:
    """Recover a task in a commit of its own, or in a merged model at `out`; see `Memory.recover`.

    Raises:
        ConfigError: the strategy's memory has no such space.
        DataError: nothing can be put back within the allowed drop; the memory is as it was.
    """
    begun = time.perf_counter()
    check_strategy(store, points, space)
    loaded = session()
    if loaded.accelerator.num_processes > 1:
        raise ConfigError("recover runs in one process; start it without a launcher")
    with locked(loaded, store):
        recoverer, held = prepare(loaded, store, points, options, space)
        own = accuracy(loaded, _pairs(store, points.task))
        before = own()
        states, best = recoverer.run()
        document = document_of(points, options, recoverer, states, best, space)
        if not best.step:
            raise DataError(
                f"{store.path}: {points.task!r} cannot be recovered: no state of {len(states) - 1} both came nearer to it and kept "
                f"{points.newest.name!r} within the allowed drop of {options.allowed_drop:g}; the memory is as it was. Give a smaller "
                "--rate, or a larger --allowed-drop"
            )
        document["accuracy"] = {"before": before, "after": own()} if before is not None else None
        seconds = time.perf_counter() - begun
        if out is not None:
            held.finish()
            told = f"task {points.task} was recovered from its prompts; the scores of the card are those of the memory as it is stored"
            write_export(loaded, store, points.now, out, "merged", notes=[told])
            return Recovery(points.task, None, str(out), document, seconds)
        made = commit(store, points, snapshot(loaded.model), document, seconds, note)
    return Recovery(points.task, made, None, document, seconds)


def prepare(
    session: Session,
    store: MemoryStore,
    points: Points,
    options: RecoverOptions,
    space: Space,
    prompts: int = PROMPTS,
    checked: int = CHECKED,
) -> tuple[Recoverer, AdapterSpace | MergedSpace]:
    """The loop with its prompts and weights, and what holds the weights; the session holds the present ones."""
    session.load_one(store, points.now)
    session.model.eval()
    layers = len(layers_of(session.base.model))
    layer = default_layer(layers) if options.layer is None else options.layer
    if layer > layers:
        raise ConfigError(f"layer={layer}: the model has {layers} layers; allowed: 1 <= layer <= {layers}")
    metric = accuracy(session, [row for row in points.newest.validation if row.kind == "pair"], checked)
    held = make_space(session, store, points, space)
    hidden = partial(_hidden, held, layer)
    seed = session.config.seed if options.seed is None else options.seed
    lost = batches(session, points.task, points.lost, seed, prompts)
    newest = batches(session, points.newest.name, points.prompts, seed, prompts)
    recoverer = Recoverer(held.weights, held.earlier, hidden, lost, newest, lambda: 1.0, options, session.progress)
    found = metric()
    if found is None:
        session.progress.say(
            f"{points.newest.name}: no validation rows, so it is checked by its prompts' representation alone (cosine)"
        )
        recoverer.metric = recoverer.likeness
    else:
        recoverer.metric = lambda: float(metric() or 0.0)
    return recoverer, held


def _hidden(held: AdapterSpace | MergedSpace, layer: int, prompts: Sequence[Sequence[int]]) -> Tensor:
    with held.running() as lm:
        return last_hidden(lm, prompts, layer)


def batches(session: Session, name: str, prompts: Prompts, seed: int, most: int) -> list[list[list[int]]]:
    """Token ids of at most so many prompts, drawn with the seed, in batches of `BATCH`.

    Raises:
        DataError: no prompt fits.
    """
    every = [session.encoder.prompt_ids(turns) for turns in prompts.turns]
    order = row_order(seed, name, "recover", 0, len(every))
    fitting = [every[i] for i in order if 0 < len(every[i]) < session.encoder.max_length][:most]
    if not fitting:
        raise DataError(f"no prompt of {name!r} fits into {session.encoder.max_length} tokens (data.max_length)")
    return [fitting[i : i + BATCH] for i in range(0, len(fitting), BATCH)]


def _pairs(store: MemoryStore, name: str) -> list[Row]:
    task = next(t for t in heldout(store) if t.name == name)
    return [row for row in task.validation if row.kind == "pair"]


def accuracy(session: Session, rows: Sequence[Row], most: int = CHECKED) -> Callable[[], float | None]:
    """A function for the share of the first rows that the model as it is prefers rightly; None without rows.

    The reference log-probs are computed at once.
    """
    pairs = session.encoder.encode(list(rows[:most]), allow_none=True)[0]
    kept = [rows[pair.position] for pair in pairs]
    reference = session.view.reference(pairs, title="recover: reference") if pairs else torch.zeros(0, 2)

    def share() -> float | None:
        if not kept:
            return None
        ratio = session.view.pair_logps(kept) - reference
        return float((ratio[:, 0] > ratio[:, 1]).double().mean())

    return share
