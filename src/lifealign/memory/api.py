"""A memory from Python: create or open, learn, evaluate, look back, export.

    memory = Memory.create("support", RunConfig())
    memory.learn(task_from_rows("support-tone", "rows.jsonl"))
    print(memory.evaluate().lines())

Opening, the log, scores and results need no torch; the model is loaded when it is first needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifealign.core.errors import ConfigError
from lifealign.core.files import free_directory
from lifealign.core.progress import NullProgress, Progress
from lifealign.memory.life import checked_note
from lifealign.memory.loaded import LoadedMemory
from lifealign.store.heldout import without_rows
from lifealign.store.layout import HEAD
from lifealign.store.writer import MemoryStore

if TYPE_CHECKING:
    from lifealign.core.config import RunConfig
    from lifealign.data.answers import AnswerRecord
    from lifealign.data.tasks import Message, Row, Task
    from lifealign.memory.answering import Asked
    from lifealign.memory.outcomes import Composition, Evaluation, Related, TaskResult
    from lifealign.memory.pushing import Pushed
    from lifealign.model.decoding import Decoder


def run_stream(config: RunConfig, *, progress: Progress | None = None) -> Memory:
    """Learn the tasks of `config.stream` in order, scoring a row of R after each; a killed run is resumed.

    Raises:
        ConfigError: no stream, or a stream that the memory was not made with.
        UserError: a task cannot be learnt; everything before it is kept.
    """
    from lifealign.memory.learning import learn_stream

    session, store = learn_stream(config, progress or NullProgress())
    return Memory(store, session)


class Memory(LoadedMemory):
    """A durable memory with its model."""

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: RunConfig | None = None,
        *,
        first: Task | None = None,
        progress: Progress | None = None,
    ) -> Memory:
        """Make a memory for the base model and strategy of `config`.

        With `first`, the task to be learnt next, nothing is left of the memory if that fails before it has trained.

        Raises:
            DataError: a row of `first`, the task to be learnt first, cannot be encoded; then nothing is written.
            ModelError: the base model cannot be loaded.
            StoreError: `path` holds something already, or cannot be written.
        """
        from lifealign.memory.adopting import imported_task
        from lifealign.memory.code import check_scores
        from lifealign.memory.learning import create_memory
        from lifealign.memory.session import Session
        from lifealign.memory.settings import located, with_adapter_apart
        from lifealign.store.undo import missing
        from lifealign.strategies.configure import read_config

        own = with_adapter_apart(config or read_config(None))
        tree = own.model_dump(mode="json")
        if own.model.adapter is not None:  # what is not given of it is taken from the adapter
            tree["lora"] = own.lora.model_dump(mode="json", exclude_unset=True)
        config = located(read_config(None, base={**tree, "memory": str(path)}, whole=True))
        check_scores(config)
        imported_task(config)  # a mistake in its rows costs no loading of a model
        session = Session(config, progress or NullProgress(), new=True)
        directories = missing(Path(path))
        made = cls(create_memory(config, session, (first,) if first else ()), session)
        made._first, made._made = first, directories
        return made

    @classmethod
    def open(cls, path: str | Path) -> Memory:
        """Open a memory; checks the chain of manifests.

        Raises:
            StoreError: not a memory, damaged, or of a newer format.
        """
        return cls(MemoryStore.open(path))

    @classmethod
    def open_or_create(
        cls, path: str | Path, config: RunConfig | None = None, *, progress: Progress | None = None
    ) -> Memory:
        """Open a memory, or make it if it does not exist yet; so a program can be run again.

        Raises:
            StoreError: as for `open` and `create`, or a memory made on another base model than that of `config`.
        """
        if not (Path(path) / HEAD).exists():
            return cls.create(path, config, progress=progress)
        found = cls.open(path)
        if config is not None:
            from lifealign.memory.settings import check_same_model

            check_same_model(found.config, config, found.path)
        return found

    def learn(
        self,
        task: Task,
        *,
        settings: Sequence[str] = (),
        note: str | None = None,
        supersedes: str | None = None,
        progress: Progress | None = None,
    ) -> TaskResult:
        """Learn one more task, commit it, and score a row of R; call it again after a kill to resume.

        Args:
            task: rows to learn and to hold out.
            settings: ``KEY=VALUE`` overrides of the memory's configuration for this task.
            note: a sentence to keep with the task, such as where its rows came from.
            supersedes: earlier task that this one replaces: its update is taken out first, and its rows are neither
                replayed nor scored from then on; None: as `task` has it.
            progress: where to report.

        Raises:
            ConfigError: a setting that would make another memory (base model, LoRA shape, seed, strategy), or a note that
                cannot be kept.
            DataError: the memory has another task, or a tag, of that name, or no task to supersede.
        """
        task = task if supersedes is None else replace(task, supersedes=supersedes)
        kept, first = checked_note(note), task is self._first
        if not first:
            self.check_new(task.name, task.supersedes, settings)
        from lifealign.memory.learning import learn_task
        from lifealign.memory.session import taken_back

        with taken_back(self._store, self._made) if first else nullcontext():
            config = self._with_settings(settings)
            result, self._store = learn_task(self._session(config, progress), self._store, task, config, kept)
        return result

    def evaluate(
        self,
        tasks: Sequence[str] | None = None,
        *,
        split: str = "test",
        as_of: str | None = None,
        generations: int | None = None,
        text_metrics: Sequence[str] | None = None,
        scores: Sequence[str] | None = None,
        guard_text: str | Path | None = None,
        guard_choices: str | Path | None = None,
        one_adapter: bool = False,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Score tasks on the held-out rows that the memory keeps; stored scores are reused.

        Args:
            tasks: names; None: all tasks learnt up to `as_of`.
            split: ``test`` or ``validation``.
            as_of: the model as it was after this task; None: as it is.
            generations: greedy answers per task, for its rule and the text metrics; None: as configured.
            text_metrics: names of text metrics, or path/to/file.py:function; None: as configured, none where `generations`
                is 0.
            scores: scores from outside, by name or path/to/file.py:function; None: as configured.
            guard_text: text whose perplexity guards general ability, before any task and at this point; None: as configured.
            guard_choices: multiple-choice questions, measured at the same two points; None: as configured.
            one_adapter: score the one adapter that an export holds, not the routed prompts; the same as without it where the
                memory does not route. The guard is not measured.
            progress: where to report.

        Raises:
            DataError: no such task, or a split without rows.
            ConfigError: no such score or text metric, no generations for one, or its library is not installed.
        """
        from lifealign.memory.early import tasks_to_score

        if one_adapter and (guard_text or guard_choices):
            raise ConfigError("one_adapter leaves out the guard; measure guard_text and guard_choices without it")
        if generations == 0 and text_metrics is None:
            text_metrics = ()
        options = {"split": split, "generations": generations, "text_metrics": text_metrics, "scores": scores}
        guard = {"text": guard_text, "choices": guard_choices}
        sections: dict[str, Mapping[str, Any]] = {"evaluate": options, "guard": guard}
        self._with_options(sections, early=True)
        point = self._point(as_of)
        chosen = tasks_to_score(self._store, point, tasks, split)
        config = self._with_options(sections)
        if tasks is None and (bare := without_rows(self._store, point)):
            self._say(
                [f"not scored: {bare[0]}, the adapter that the memory began with; its rows were not given"], progress
            )
        self.score_notes(progress)
        from lifealign.memory.scoring import score_tasks

        evaluation = score_tasks(
            self._session(config, progress), self._store, point, chosen, config, one_adapter and self._routes(point)
        )
        self._say(evaluation.warnings, progress)
        return evaluation

    def generate(
        self,
        prompts: Sequence[str | Sequence[Message]],
        *,
        as_of: str | None = None,
        weights: Mapping[str, float] | None = None,
        route: bool | None = None,
        decoder: Decoder | str | None = None,
        **options: Any,
    ) -> list[str]:
        """Answers of the model as it is, or as it was after a task; other options as in `generate.generate`.

        Args:
            prompts: each one user turn, or a conversation that ends with one.
            as_of: the model as it was after this task; None: as it is.
            weights: task -> weight of its update, 1 if none is given; see `compose`.
            route: answer each prompt by the updates of the tasks that it may belong to (`routing.Routes`); None: as the memory
                was made (`strategy.route`).
            decoder: chooses the answers (`model.decoding`), or its name; None: the model's own, greedy or sampled.
            options: of `generate.generate`, and `progress`.

        Raises:
            ConfigError: weights or routing for a strategy whose memory is no sum of updates, or both at once.
            StoreError: an unknown task, or one without a signature.
        """
        if weights and route:
            raise ConfigError("weights and route both set the weight of each task; give only one of them")
        from lifealign.memory.early import bound, full_weights

        point = self._point(as_of)
        if weights:
            full_weights(self._store, point, weights)
        if decoder is not None:
            options["decoder"] = bound(decoder, self._store, options)
        session = self._session(self.config, options.pop("progress", None))
        if not weights:
            session.load(self._store, point, route)
            return session.generate(prompts, **options)
        from lifealign.memory.recompose import generate_recomposed

        return generate_recomposed(session, self._store, point, prompts, weights, options)

    def answers(self, asked: Asked, *, progress: Progress | None = None) -> list[AnswerRecord]:
        """Greedy answers to held-out prompts at points of the memory's life; see `answering.Asked` for the errors."""
        from lifealign.memory.answering import answer_memory

        return answer_memory(self._store, lambda: self._session(self.config, progress), asked)

    def related(
        self,
        rows: str | Path | Sequence[Row | Mapping[str, Any]],
        *,
        steps: int = 4,
        recipe: str | None = None,
        as_of: str | None = None,
        progress: Progress | None = None,
    ) -> Related:
        """Rank stored tasks by likeness to new rows and forecast how learning them would change each; writes nothing.

        Args:
            rows: as for `task_from_rows`.
            steps: gradient steps of the forecast; 0: none.
            recipe: of `data.recipes`, for upstream columns.
            as_of: the memory as it was after this task; None: as it is.
            progress: where to report.

        Raises:
            ConfigError: fewer than 0 steps.
            DataError: rows that cannot be used, or no task learnt yet.
        """
        from lifealign.data.load import load_rows

        if steps < 0:
            raise ConfigError(f"steps={steps}: allowed: 0 <= steps")
        point = self._point(as_of)
        found = load_rows(rows, "rows", recipe=recipe, seed=self.config.seed)
        from lifealign.memory.recompose import relate

        return relate(self._session(self.config, progress), self._store, point, found.rows, steps)

    def compose(
        self,
        weights: Mapping[str, float],
        *,
        space: str | None = None,
        out: str | Path | None = None,
        as_of: str | None = None,
        split: str = "test",
        progress: Progress | None = None,
    ) -> Composition:
        """Weigh tasks differently, or withdraw them, without training: initial + sum_t w_t * what task t changed.

        With `out` a PEFT adapter is written there. Without, the held-out rows of all tasks are scored with the stored and
        with the composed weights. The memory is not changed.

        Args:
            weights: task -> weight of its update; 0 withdraws it, 1 (the default) leaves it as it is.
            space: `factors` (exact, on A and on B) or `delta_w` (on B A, cut to the adapter's rank); None: the memory's own.
            out: a directory that is missing or empty.
            as_of: the memory as it was after this task; None: as it is.
            split: held-out rows to score, `test` or `validation`.
            progress: where to report.

        Raises:
            ConfigError: a strategy whose memory is no sum of updates, a weight that is not finite, or something at `out`.
            DataError: no task has rows to score.
            StoreError: no such task.
        """
        from lifealign.memory.early import full_weights

        target, point = None if out is None else free_directory(out), self._point(as_of)
        full_weights(self._store, point, weights)
        config = self._with_options({"evaluate": {"split": split}})
        from lifealign.memory.recompose import recompose

        try:
            return recompose(lambda: self._session(config, progress), self._store, point, weights, space, split, target)
        finally:
            if target is not None:
                self._loaded = None  # its model is given up

    def export(
        self,
        out: str | Path,
        *,
        format: str | None = None,
        merged: bool = False,
        as_of: str | None = None,
        gguf_type: str | None = None,
    ) -> Path:
        """Write the model for use without this package, load it again and compare it; errors as of `write_export`.

        Args:
            out: a directory that is missing or empty; its `export.json` states the difference from the memory.
            format: a key of `exporting.FORMATS`; None: `peft`.
            merged: the same as `format="merged"`.
            as_of: the model as it was after this task; None: as it is.
            gguf_type: numbers of `gguf`, one of `gguf_files.TYPES`; None: `f16`.
        """
        from lifealign.memory.early import which_format

        form, target, point = which_format(format, merged), free_directory(out), self._point(as_of)
        from lifealign.memory.exporting import write_export
        from lifealign.memory.routing import one_adapter_notes

        session, self._loaded = self._session(self.config, None), None  # its model is given up
        notes = one_adapter_notes(self._store, point)
        session.load_one(self._store, point)
        return write_export(session, self._store, point, target, form, gguf_type, notes)

    def push(
        self,
        repo: str,
        *,
        public: bool = False,
        message: str | None = None,
        format: str = "peft",
        as_of: str | None = None,
    ) -> Pushed:
        """Export the model, check it, and push it to a repository of the hub; errors as of `export` and `pushing.push`.

        Args:
            repo: id, as ``owner/name``; made if there is none.
            public: whether all may read a new repository; needed for one that is public already.
            message: of the commit; None: names the task.
            format: a key of `exporting.FORMATS`.
            as_of: the model as it was after this task; None: as it is.
        """
        from lifealign.memory.pushing import push

        point = self._point(as_of)
        return push(
            lambda out: self.export(out, format=format, as_of=point.directory), repo, public, message, point, format
        )
