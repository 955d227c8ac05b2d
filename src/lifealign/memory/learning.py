"""The life of the data, on one page: train, consolidate, commit, evaluate a row of R; resumable at any point.

A memory only ever shows whole tasks. Unfinished work is in its workspace: a killed run finds its last checkpoint there
and goes on; a killed commit is invisible; a missing row of R is measured again from the committed weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lifealign.core.config import RunConfig
from lifealign.core.errors import DataError
from lifealign.core.progress import Progress
from lifealign.data.load import configured_stream
from lifealign.data.suites.rules import check_rule
from lifealign.data.tasks import Task, TaskStream, rows_sha256
from lifealign.evaluation.guard_results import guard_values
from lifealign.evaluation.learnt import learnt_task
from lifealign.evaluation.results import read_scores
from lifealign.memory.adopting import adopt_pending, imported_task, root_parts
from lifealign.memory.code import CODE, check_scores, find_code, outside_code
from lifealign.memory.early import taken
from lifealign.memory.guard import score_guard
from lifealign.memory.history import StoreHistory
from lifealign.memory.kinds import check_kinds, kinds_document, kinds_lines
from lifealign.memory.leaks import Leaks, left_out_lines
from lifealign.memory.numerics import NUMERICS, numerics_of
from lifealign.memory.outcomes import TaskResult
from lifealign.memory.policy import limits
from lifealign.memory.references import pair_reference, sft_reference
from lifealign.memory.resume import as_one, check_same, same_task
from lifealign.memory.retiring import check_supersedes, parts_of, put, retired_lines, start_without, superseded
from lifealign.memory.routing import task_signatures
from lifealign.memory.scoring import score_row, tasks_of_row
from lifealign.memory.selecting import select_rows
from lifealign.memory.session import Session, locked, taken_back
from lifealign.memory.settings import located, settled, with_adapter_apart
from lifealign.memory.sleep import rest
from lifealign.memory.work import Work, data_document, update_between, workspace_key
from lifealign.model.adapters import snapshot
from lifealign.store.documents import read_data, read_diagnostics, read_training
from lifealign.store.heldout import heldout, heldout_lines
from lifealign.store.layout import (
    ADAPTER,
    DATA,
    DIAGNOSTICS,
    HEAD,
    HELDOUT,
    IMPORTED,
    REPLAY,
    RETIRED,
    SIGNATURE,
    STATE,
    TRAINING,
    UPDATE,
    WORK,
)
from lifealign.store.manifest import NOTE, TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import learns_nothing
from lifealign.store.undo import missing
from lifealign.store.writer import MemoryStore
from lifealign.training.feedback import with_others
from lifealign.training.loop import Loop, Stage, stage_reached, train_stage
from lifealign.training.signs import plain_diagnostics, unseen_lines, with_signs

KL_PAIRS = 4
"""Training pairs on which the exact KL to the base model is measured after each task."""


def create_memory(config: RunConfig, session: Session, tasks: Sequence[Task] = ()) -> MemoryStore:
    """Make a memory at `config.memory` with no task yet; rows of `tasks` that cannot be learnt leave none behind."""
    check_kinds(session.strategy, config, tasks)
    for group in session.strategy.schedule(tasks):
        for split in ("train", "validation", "test"):
            session.encoder.encode([row for task in group for row in getattr(task, split)])
    adapter = imported_task(config)
    _check_lengths(session, [adapter] if adapter is not None else [])
    settled = session.settle()
    identity = {**session.identity, "seed": config.seed, "config": settled.model_dump(mode="json")}
    if outside := outside_code(identity["config"]):
        identity[CODE] = outside
    made, directories = None, missing(Path(config.memory))
    own, more, documents = root_parts(session, adapter)
    tensors = {ADAPTER: session.initial, STATE: session.strategy.state_dict()} | more
    if session.accelerator.is_main_process:
        made = MemoryStore.create(config.memory, identity | own, tensors, documents)
    session.accelerator.wait_for_everyone()
    store = made or MemoryStore.open(config.memory)
    with taken_back(store, directories):
        return adopt_pending(session, store, settled)


def learn_stream(
    config: RunConfig, progress: Progress, stream: TaskStream | None = None
) -> tuple[Session, MemoryStore]:
    """Learn the tasks of `config.stream` in order, scoring a row of R after each; a killed run is resumed.

    Args:
        config: of the run.
        progress: where to report.
        stream: the tasks of `config.stream`, if they were read before; None: they are read now.

    Raises:
        ConfigError: no stream, or a stream that the memory was not made with.
        UserError: a task cannot be learnt; everything before it is kept.
    """
    tasks = (stream or configured_stream(config)).tasks
    config = located(config if (Path(config.memory) / HEAD).exists() else with_adapter_apart(config))
    split = config.evaluate.split
    if without := [t.name for t in tasks if not getattr(t, split)]:
        progress.say(f"no {split} rows, so not scored: {', '.join(without)}")
    reader = MemoryReader.open(config.memory) if (Path(config.memory) / HEAD).exists() else None
    changed = [] if reader is None else find_code(reader.identity, reader.path)
    if reader is not None:
        config = settled(reader, config)
    check_scores(config, reader)
    session = Session(config, progress, new=reader is None)
    session.changed = changed
    session.warn(changed)
    made = missing(Path(config.memory))
    store = MemoryStore.open(config.memory) if reader is not None else create_memory(config, session, tasks)
    config = session.config
    session.join(store)
    check_kinds(session.strategy, config, tasks)
    with nullcontext() if reader is not None else taken_back(store, made), locked(session, store):
        store.refuse_tags(task.name for task in tasks)
        store = adopt_pending(session, store, config)
        begun = sum(1 for m in store.lineage() if m.meta.get(IMPORTED))
        if config.evaluate.before:
            score_row(session, store, store.lineage()[0], tasks, config)
        score_guard(session, store, store.lineage()[0], config.guard)
        for position, group in enumerate(groups := list(session.strategy.schedule(tasks)), 1 + begun):
            lineage = [m for m in store.lineage() if not learns_nothing(m)]
            if position < len(lineage):
                check_same(store, lineage[position], group)
                manifest = lineage[position]
            else:
                manifest, store = learn_group(session, store, group, config, stream=tasks)
            row = tasks_of_row(session, store, manifest, tasks, config.evaluate, position == begun + len(groups))
            score_row(session, store, manifest, row, config)
            score_guard(session, store, manifest, config.guard)
    session.accelerator.end_training()
    return session, store


def learn_task(
    session: Session, store: MemoryStore, task: Task, config: RunConfig, note: str | None = None
) -> tuple[TaskResult, MemoryStore]:
    """Learn one more task of a memory and score a row of R; a killed run is resumed. See `Memory.learn`.

    Returns the result and the store that shows the task.

    Raises:
        DataError: the memory has another task, or a tag, of that name.
    """
    started = time.perf_counter()
    check_scores(config, store)
    check_rule(task.name, task.checker)
    check_kinds(session.strategy, config, [task])
    check_supersedes(store, task)
    with locked(session, store):
        store = adopt_pending(session, store, config)
        head, root = store.head, store.lineage()[0]
        score_guard(session, store, root, config.guard)
        known = {name: m for m in store.lineage() for name in m.members}
        if task.name not in known:
            store.refuse_tags([task.name])
            if config.evaluate.before:
                for point in dict.fromkeys((root.directory, head.directory)):
                    score_row(session, store, store.find(point), [task], config)
            head, store = learn_group(session, store, [task], config, note)
        elif known[task.name] is not head or not same_task(store, head, task, config):
            raise taken(store, task.name, known[task.name])
        elif note is not None and note != head.meta.get(NOTE):
            session.progress.say(
                f"warning: {head.directory} was committed before, with the note {head.meta.get(NOTE)!r}"
            )
        # else: a killed run committed it; only the row of R may be missing.
        score_row(session, store, head, tasks_of_row(session, store, head, heldout(store), config.evaluate), config)
        score_guard(session, store, head, config.guard)
    table = read_scores(store, config.evaluate.split)
    cells = table.cells(head.directory, table.current, config.evaluate.bootstrap)
    guarded = guard_values(store, table.stages)
    seconds = float(head.meta.get("seconds", time.perf_counter() - started))
    told = [f"{task.name}: {line}" for line in left_out_lines(read_data(store, head))]
    if RETIRED in head.files:
        told += retired_lines(store, store.load_document(head, RETIRED))
    found = plain_diagnostics(read_diagnostics(store, head))
    learnt = learnt_task(store, table, head, task.name, cells, config.evaluate)
    return TaskResult(task.name, head.directory, seconds, found, cells, guarded, told, learnt), store


def learn_group(
    session: Session,
    store: MemoryStore,
    given: Sequence[Task],
    config: RunConfig,
    note: str | None = None,
    stream: Sequence[Task] = (),
) -> tuple[TaskManifest, MemoryStore]:
    """Learn one group of tasks (usually one) on top of HEAD and commit it: steps 1 to 5 of the method.

    The memory must be locked by the caller (`locked`). Returns the new manifest and the store that shows it.
    Training rows that a task of the memory or of the stream holds out are left out.

    Raises:
        DataError: no row to train on, or a row that cannot be encoded.
        TrainingError: a loss or gradient is not finite; the memory is unchanged.
    """
    started = time.perf_counter()
    gone = superseded(store, given)
    start = start_without(store, gone, "supersede") if gone else None
    history = StoreHistory(store, start)
    strategy, model, accelerator = session.strategy, session.model, session.accelerator
    _check_lengths(session, given)
    leaks = Leaks.of(store, given, stream, start.retires if start is not None else ())
    # Rows of earlier tasks that come back as replay were accepted then; one that does not fit now is left out.
    with limits(session.encoder, session.encoder.max_length, "drop"):
        group, selection = select_rows(session, leaks.clean(given), config)
        work = _encode(session, store, group, history, config, leaks, selection)
        for stage in _stages(session, store, work, history, config):
            train_stage(work.loop, stage)
        if work.loop.log and work.pairs:
            work.loop.log[-1]["kl"] = session.view.kl_to_base(work.pairs[:KL_PAIRS])

        session.progress.say(f"{work.task.name}: end of task ({config.strategy.name})")
        diagnostics = _end_task(session, work.task, history, config)
        after, before = snapshot(model), history.adapter()
        update = update_between(before, after)
        slept = rest(session, store, group, history, update, store.path / WORK / work.workspace)
        work.loop.log += slept.log
        kept = strategy.retain(work.task, history)
        tensors, documents, meta = parts_of(start, given)
        signature = task_signatures(session.view, session.encoder, store, group, config.seed)
        if accelerator.is_main_process:
            tensors |= {ADAPTER: after, UPDATE: update, STATE: strategy.state_dict(), SIGNATURE: signature}
            store.commit(
                work.task.name,
                members=[t.name for t in group],
                tensors=tensors | slept.tensors,
                documents={DIAGNOSTICS: {**diagnostics, **slept.document}, DATA: data_document(work)} | documents,
                lines={REPLAY: kept.to_lines(), HELDOUT: heldout_lines(group), TRAINING: work.loop.log},
                seed=config.seed,
                config=config.model_dump(mode="json"),
                meta=_meta(session, work, config, note)
                | {"seconds": time.perf_counter() - started, "rows_sha256": rows_sha256(as_one(given).train)}
                | meta,
            )
            store.clear_workspace(work.workspace)
    accelerator.wait_for_everyone()
    store = store if accelerator.is_main_process else MemoryStore.open(store.path)
    return store.head, store


def _meta(session: Session, work: Work, config: RunConfig, note: str | None) -> dict[str, Any]:
    """What a commit's manifest notes of how the work was done."""
    outside = outside_code(config.model_dump(mode="json"))
    return {
        "reference_seconds": work.reference_seconds,
        "shared_prefix": work.loop.shared_prefix,
        "processes": session.accelerator.num_processes,
        NUMERICS: numerics_of(session.base.model, session.accelerator, work.loop.tokens_per_pack),
        **({CODE: outside} if outside else {}),
        **({NOTE: note} if note else {}),
    }


def _end_task(session: Session, task: Task, history: StoreHistory, config: RunConfig) -> dict[str, Any]:
    """End the task; returns its diagnostics with the method's signs, and says which of them were not seen."""
    name, strategy = config.strategy.name, session.strategy
    diagnostics = with_signs(name, strategy.signs, strategy.end_task(session.model, task, history))
    session.warn(unseen_lines(task.name, name, diagnostics))
    return diagnostics


def _check_lengths(session: Session, group: Sequence[Task]) -> None:
    """Refuse a new row that is too long, if `data.long_prompts` is `error`, before anything is trained."""
    for task in group:
        session.encoder.encode([*task.validation, *task.test, *task.train], allow_none=True)


def _encode(
    session: Session,
    store: MemoryStore,
    group: Sequence[Task],
    history: StoreHistory,
    config: RunConfig,
    leaks: Leaks,
    selection: dict[str, Any],
) -> Work:
    """Begin a group: load the weights of HEAD, encode the rows, and make the loop that trains on them."""
    session.start_tracking()
    task = as_one(group)
    if not task.train:
        why = f" ({told[0]})" if (told := left_out_lines(leaks.document())) else ""
        raise DataError(f"task {task.name!r} has no training rows{why}; give it at least one")
    # Encode held-out rows too, so that a row that cannot be scored is reported before training rather than after it.
    held_out = {
        split: session.encoder.encode([row for t in group for row in getattr(t, split)])[1]
        for split in ("validation", "test")
    }
    session.load(store, store.head)
    if history.start is not None:
        put(session, history.start)
        for line in retired_lines(store, history.start.document):
            session.progress.say(line)
    session.strategy.begin_task(session.model, task, history)
    dataset = session.strategy.training_set(task, history)
    encoded, encoding = session.encoder.encode(dataset.rows)
    own = {task.name, *(t.name for t in group)}
    # Rows of replay leave here, so that a method's numbers of its rows stay as they are.
    encoded = [p for p in encoded if dataset.origin[p.position] in own or not leaks.replay(dataset.rows[p.position])]
    for line in left_out_lines(leaks.document()):
        session.progress.say(f"{task.name}: {line}")
    for split, report in {"training": encoding, **held_out}.items():
        for line in report.lines(f"{task.name}: {split}"):
            session.progress.say(line)
    pairs, feedback = with_others(encoded, session.strategy.objective.config)
    kinds = kinds_document([dataset.rows[p.position] for p in encoded], feedback, session.strategy)
    for line in kinds_lines(kinds, config):
        session.progress.say(f"{task.name}: training: {line}")
    shared_prefix = session.view.shared_prefix(encoded)
    session.view.compile_layers(encoded, config.train.epochs + config.sft.epochs)
    key = workspace_key(store, task, config, [p.digest for p in encoded])
    workspace = store.workspace(key) if session.accelerator.is_main_process else store.path / WORK / key
    session.accelerator.wait_for_everyone()
    loop = Loop(
        task.name,
        session.model,
        session.strategy,
        config.train,
        config.seed,
        shared_prefix,
        session.accelerator,
        workspace,
        session.progress,
        earlier_steps=_steps_before(store) if config.train.trackers else 0,
        tokens_per_pack=session.view.tokens_per_pack(encoded),
        sft=config.sft,
    )
    return Work(group, task, dataset, pairs, feedback, kinds, encoding, held_out, key, loop, leaks, selection)


def _steps_before(store: MemoryReader) -> int:
    """Optimizer steps of all earlier tasks."""
    return sum(len(read_training(store, m)) for m in store.lineage()[1:])


def _stages(
    session: Session, store: MemoryStore, work: Work, history: StoreHistory, config: RunConfig
) -> Iterator[Stage]:
    """The stages still to be trained; each is finished before the next is requested.

    A generator, because the reference of the preference stage may be the policy after the SFT stage.
    """
    view, pairs = session.view, work.pairs
    reached = stage_reached(work.loop.checkpoints)
    if config.sft.epochs and (reached is None or reached[0] == "sft"):
        compared = sft_reference(session, store, work, history, config.sft)
        options = config.sft.epochs, config.sft.learning_rate
        yield work.loop.stage("sft", *options, pairs, compared, view.sft_losses_on, work.feedback)
        session.strategy.end_sft(session.model, work.task, history)
    if reached is not None and reached[0] == "preference":
        reference = reached[1]
    else:
        begun = time.perf_counter()
        reference = pair_reference(session, store, work, history)
        work.reference_seconds = time.perf_counter() - begun
    options = config.train.epochs, config.train.learning_rate
    yield work.loop.stage("preference", *options, pairs, reference, view.losses_on, work.feedback)
