"""The life of the data, on one page: train, consolidate, commit, evaluate a row of R; resumable at any point.

A memory only ever shows whole tasks. What is under way lives in its workspace: a killed run finds its last checkpoint
there and goes on; a killed commit is invisible; a missing row of R is measured again from the committed weights.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.core.progress import Progress
from lifealign.data.load import load_stream
from lifealign.data.tasks import Task, rows_sha256
from lifealign.evaluation.answer_scores import require
from lifealign.memory.code import CODE, find_code, outside_code
from lifealign.memory.guard import score_guard
from lifealign.memory.history import StoreHistory
from lifealign.memory.recompose import task_signatures
from lifealign.memory.scoring import learnt, score_row
from lifealign.memory.session import Session, locked
from lifealign.model.adapters import snapshot
from lifealign.store.heldout import heldout
from lifealign.store.layout import (
    ADAPTER,
    DATA,
    DIAGNOSTICS,
    HEAD,
    HELDOUT,
    REPLAY,
    SIGNATURE,
    STATE,
    TRAINING,
    UPDATE,
    WORK,
)
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.writer import MemoryStore
from lifealign.training.loop import Loop, Stage, stage_reached, train_stage

KL_PAIRS = 4
"""Training pairs on which the exact KL to the base model is measured after each task."""


def create_memory(config: RunConfig, session: Session) -> MemoryStore:
    """A new memory at `config.memory` with the initial adapter and nothing learnt."""
    dtype = session.base.identity["dtype"]
    settled = config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})
    session.config = settled  # `auto` is decided once in a memory's life
    identity = {**session.identity, "seed": config.seed, "config": settled.model_dump(mode="json")}
    if outside := outside_code(identity["config"]):
        identity[CODE] = outside
    if session.accelerator.is_main_process:
        MemoryStore.create(config.memory, identity, {ADAPTER: session.initial, STATE: session.strategy.state_dict()})
    session.accelerator.wait_for_everyone()
    return MemoryStore.open(config.memory)


def learn_stream(config: RunConfig, progress: Progress) -> tuple[Session, MemoryStore]:
    """Learn the tasks of `config.stream` in order, scoring a row of R after each; goes on where a killed run was.

    Raises:
        ConfigError: no stream, or a stream that the memory was not made with.
        UserError: whatever keeps a task from being learnt; everything before it stays.
    """
    if config.stream is None:
        raise ConfigError("the configuration has no `stream`, so there is nothing to run; see examples/planted.yaml")
    tasks = load_stream(config.stream, config.seed).tasks
    split = config.evaluate.split
    if without := [t.name for t in tasks if not getattr(t, split)]:
        progress.say(f"no {split} rows, so not scored: {', '.join(without)}")
    existing = (Path(config.memory) / HEAD).exists()
    if existing:
        for line in find_code(MemoryReader.open(config.memory).identity, Path(config.memory)):
            progress.say(f"warning: {line}")
        config = _settled(MemoryReader.open(config.memory), config)
    session = Session(config, progress)
    store = MemoryStore.open(config.memory) if existing else create_memory(config, session)
    config = session.config
    session.check_identity(store.identity, store.path)
    with locked(session, store):
        if config.evaluate.before:
            score_row(session, store, store.lineage()[0], tasks, config)
        score_guard(session, store, store.lineage()[0], config.guard)
        for position, group in enumerate(session.strategy.schedule(tasks), 1):
            lineage = store.lineage()
            if position < len(lineage):
                _check_same(store, lineage[position], group)
                manifest = lineage[position]
            else:
                manifest, store = learn_group(session, store, group, config)
            seen = [t for t in tasks if config.evaluate.unseen or t.name in learnt(store, manifest)]
            score_row(session, store, manifest, seen, config)
            score_guard(session, store, manifest, config.guard)
    session.accelerator.end_training()
    return session, store


def learn_group(
    session: Session, store: MemoryStore, group: Sequence[Task], config: RunConfig
) -> tuple[TaskManifest, MemoryStore]:
    """Learn one group of tasks (usually one) on top of HEAD and commit it: steps 1 to 5 of the method.

    The memory must be locked by the caller (`locked`). Returns the new manifest and the store that shows it.
    """
    started = time.perf_counter()
    session.start_tracking()
    require(config.evaluate.text_metrics)
    task = _merge(group)
    if not task.train:
        raise DataError(f"task {task.name!r} has no training rows; give it at least one")
    # Also what will be scored: a row that cannot be is a mistake to hear of before training, not after it.
    held_out = {
        split: session.encoder.encode([row for t in group for row in getattr(t, split)])[1]
        for split in ("validation", "test")
    }
    history = StoreHistory(store)
    strategy, model, accelerator = session.strategy, session.model, session.accelerator
    session.load(store, store.head)
    strategy.begin_task(model, task, history)
    dataset = strategy.training_set(task, history)
    pairs, encoding = session.encoder.encode(dataset.rows)
    for split, report in {"training": encoding, **held_out}.items():
        for line in report.lines(f"{task.name}: {split}"):
            session.progress.say(line)
    shared_prefix = session.view.shared_prefix(pairs)

    key = _workspace_key(store, task, config, [p.digest for p in pairs])
    workspace = store.workspace(key) if accelerator.is_main_process else store.path / WORK / key
    accelerator.wait_for_everyone()
    trained = store.lineage()[1:] if config.train.trackers else ()
    loop = Loop(
        task.name,
        model,
        strategy,
        config.train,
        config.seed,
        shared_prefix,
        accelerator,
        workspace,
        session.progress,
        earlier_steps=sum(len(store.load_lines(m, TRAINING)) for m in trained),
    )
    reached = stage_reached(workspace)
    reference_seconds = 0.0
    unused = torch.zeros(len(pairs), 2)
    if config.sft.epochs and (reached is None or reached[0] == "sft"):
        sft = Stage("sft", config.sft.epochs, config.sft.learning_rate, pairs, unused, session.view.sft_losses_on)
        train_stage(loop, sft)
        strategy.end_sft(model, task, history)
    if reached is not None and reached[0] == "preference":
        reference = reached[1]
    else:
        begun = time.perf_counter()
        reference = _reference(session, store, pairs, config)
        reference_seconds = time.perf_counter() - begun
    train_stage(
        loop,
        Stage("preference", config.train.epochs, config.train.learning_rate, pairs, reference, session.view.losses_on),
    )
    if loop.log and pairs:
        loop.log[-1]["kl"] = session.view.kl_to_base(pairs[:KL_PAIRS])

    session.progress.say(f"{task.name}: end of task ({config.strategy.name})")
    diagnostics = strategy.end_task(model, task, history)
    after, before = snapshot(model), history.adapter()
    kept = strategy.retain(task, history)
    signature = task_signatures(session, group, config.seed)
    if accelerator.is_main_process:
        store.commit(
            task.name,
            members=[t.name for t in group],
            tensors={
                ADAPTER: after,
                UPDATE: _update(before, after),
                STATE: strategy.state_dict(),
                SIGNATURE: signature,
            },
            documents={
                DIAGNOSTICS: dict(diagnostics),
                DATA: {
                    "reports": {t.name: [r.to_json() for r in t.reports] for t in group},
                    "requirements": {t.name: t.requirement for t in group},
                    "encoding": encoding.to_json(),
                    "encoding_held_out": {split: report.to_json() for split, report in held_out.items()},
                    "rows": len(pairs),
                    "from_replay": sum(origin not in {t.name for t in group} for origin in dataset.origin)
                    if len(group) == 1
                    else len(dataset.rows) - len(task.train),
                },
            },
            lines={
                REPLAY: kept.to_lines(),
                HELDOUT: [
                    {"task": t.name, "checker": t.checker, "split": split, "row": row.to_json()}
                    for t in group
                    for split, rows in (("validation", t.validation), ("test", t.test))
                    for row in rows
                ],
                TRAINING: loop.log,
            },
            seed=config.seed,
            config=config.model_dump(mode="json"),
            meta={
                "seconds": time.perf_counter() - started,
                "reference_seconds": reference_seconds,
                "rows_sha256": rows_sha256(task.train),
                "shared_prefix": shared_prefix,
                "processes": accelerator.num_processes,
                **({CODE: outside} if (outside := outside_code(config.model_dump(mode="json"))) else {}),
            },
        )
        store.clear_workspace(key)
    accelerator.wait_for_everyone()
    store = store if accelerator.is_main_process else MemoryStore.open(store.path)
    return store.head, store


def _reference(session: Session, store: MemoryStore, pairs: Sequence[Any], config: RunConfig) -> Tensor:
    """Summed log-probs [N, 2] of the reference policy that the strategy's objective names."""
    which = session.strategy.reference
    if which == "base":
        return session.view.logps(pairs, base=True, title="reference log-probs")
    if which == "task_start":
        return session.view.logps(pairs, base=False, title="reference log-probs (after SFT)")
    with session.as_of(store, store.head):
        return session.view.logps(pairs, base=False, title="reference log-probs (previous task)")


def _update(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The change of the trained tensors that were there before; what a method trains may grow from task to task."""
    return {n: t - before[n] for n, t in after.items() if n in before and t.shape == before[n].shape}


def _merge(group: Sequence[Task]) -> Task:
    """A group as one task to train on; what is held out stays with its own task."""
    if len(group) == 1:
        return group[0]
    return Task("joint", tuple(row for task in group for row in task.train))


def _workspace_key(store: MemoryStore, task: Task, config: RunConfig, digests: Sequence[str]) -> str:
    """Checkpoints are found again only for the same rows, requirement, options and starting point."""
    relevant = config.model_dump(mode="json", include={"seed", "model", "lora", "data", "strategy", "sft", "train"})
    text = json.dumps([store.head.sha256, task.name, task.requirement, relevant, list(digests)], sort_keys=True)
    return f"{task.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def same_rows(store: MemoryReader, manifest: TaskManifest, group: Sequence[Task]) -> bool:
    """Whether a commit is of these tasks, learnt from these rows, with these held out."""
    if list(manifest.members) != [t.name for t in group]:
        return False
    kept = {t.name: t for t in heldout(store, manifest)}
    held_out = all((t.validation, t.test) == (kept[t.name].validation, kept[t.name].test) for t in group)
    return held_out and manifest.meta["rows_sha256"] == rows_sha256(_merge(group).train)


def _check_same(store: MemoryReader, manifest: TaskManifest, group: Sequence[Task]) -> None:
    if not same_rows(store, manifest, group):
        raise StoreError(
            f"{store.path}: task {manifest.index} of this memory is {list(manifest.members)}, learnt from or scored on other rows "
            f"than this run's {[t.name for t in group]}; give another `memory` directory, or roll back to the task before it"
        )


def _settled(store: MemoryReader, config: RunConfig) -> RunConfig:
    """The run's configuration on an existing memory: what shaped the memory must be the same.

    Raises:
        ConfigError: lists the keys that differ.
    """
    stored = RunConfig.model_validate(store.identity["config"])
    model = config.model
    if model.dtype == "auto":
        model = model.model_copy(update={"dtype": stored.model.dtype})
    config = config.model_copy(update={"model": model})
    fixed = ("seed", "model", "lora", "data", "strategy", "sft", "train")
    differing = []
    for key in fixed:
        old, new = (json.loads(c.model_dump_json(include={key}))[key] for c in (stored, config))
        if old != new:
            parts = [k for k in {**old, **new} if old.get(k) != new.get(k)] if isinstance(old, dict) else []
            differing += [f"{key}.{k}: {old.get(k)!r} there, {new.get(k)!r} here" for k in parts] or [
                f"{key}: {old!r} there, {new!r} here"
            ]
    if differing:
        raise ConfigError(
            f"{store.path}: this memory was made with other settings; set them back or give another `memory` directory:\n  "
            + "\n  ".join(differing)
        )
    return config
