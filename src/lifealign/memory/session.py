"""A loaded model with its strategy, for learning, scoring and generating within one process."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from torch import Tensor

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, StoreError
from lifealign.core.files import cache_dir
from lifealign.core.progress import Progress, say_once
from lifealign.data.suites.rules import Rule
from lifealign.data.tasks import Message, Row, turns_of
from lifealign.memory.numerics import follow
from lifealign.memory.row_scores import AnswerScorer, TaskScores, answer_rows, score_rows
from lifealign.model.adapters import NOTES, restore, snapshot
from lifealign.model.base import load_base
from lifealign.model.encoding import EncodedPair, Encoder
from lifealign.model.generate import generate
from lifealign.model.imported import (
    Imported,
    check_same_logits,
    in_our_form,
    read_adapter,
    template_notes,
    with_adapter,
)
from lifealign.model.logp_cache import ReferenceCache
from lifealign.model.lora_product import fuse_lora
from lifealign.model.template import once
from lifealign.model.vocabulary import embeddings
from lifealign.model.wheels import needs_conversion
from lifealign.store.layout import ADAPTER, IMPORTED, STATE, TRACKERS, WORK
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.undo import take_back
from lifealign.store.writer import MemoryStore
from lifealign.strategies import Strategy, make_strategy
from lifealign.training.feedback import FeedbackConfig, reference_point, with_others
from lifealign.training.model_view import LoadedView


class Session:
    """Base model, adapter, strategy and encoder of one memory.

    Args:
        config: of the run; `model.dtype` resolved or `auto`.
        progress: where to report.
        new: of a memory that is to be made; then the adapter that it begins with, if any, is read.

    Attributes:
        imported: the adapter that a new memory begins with; None: none, or the memory exists.
        adopted: the trained tensors with it.
        compared: its logits beside stock PEFT's; see `imported.check_same_logits`.
        said: warnings reported so far.
        changed: a sentence for each change in outside code since the memory was made; kept with what is measured.
    """

    def __init__(self, config: RunConfig, progress: Progress, new: bool = False) -> None:
        self.config = config
        self.progress = progress
        self.said: set[str] = set()
        self.changed: Sequence[str] = ()
        trackers = list(config.train.trackers)
        self.accelerator = Accelerator(
            log_with=trackers or None, project_dir=str(Path(config.memory) / WORK / TRACKERS) if trackers else None
        )
        self._tracking = not trackers
        if needs_conversion(config.model.name):
            progress.say(f"converting {config.model.name} from its wheel (once, about half a minute)")
        self.base = load_base(config.model)
        for note in self.base.notes:
            progress.say(note)
        self.imported = None
        if new and config.model.adapter is not None:
            self.imported = read_adapter(self.base.model, config.model.adapter, config.model.name)
            config = self.config = config.model_copy(update={"lora": with_adapter(config.lora, self.imported)})
        longest = min(config.data.max_length, self.base.positions)
        if longest < config.data.max_length:
            progress.say(
                f"data.max_length={config.data.max_length} exceeds the base model's context; using {longest} tokens"
            )
        self.encoder = self._encoder(longest)
        self.strategy = make_strategy(config.strategy, config.lora, config.seed)
        self.strategy.check(config)
        self.model = self.strategy.attach(self.base.model).to(self.accelerator.device)
        if self.accelerator.device.type == "cuda":
            fuse_lora(self.model)
        else:
            self._refuse_gpu_options()
        for note in getattr(self.model, NOTES, ()):
            progress.say(note)
        self.model.eval()
        self.initial = snapshot(self.model)
        self.adopted: Mapping[str, Tensor] = {}
        self.compared: Mapping[str, float] = {}
        if self.imported is not None:
            self._take_adapter(self.imported)
        self.view = LoadedView(
            self.base,
            self.model,
            self.strategy,
            self.encoder,
            config,
            self.accelerator,
            ReferenceCache(cache_dir() / "logps.sqlite"),
            progress,
        )
        self.strategy.view = self.view
        self.reward_beta = self.strategy.reward_beta
        self._data: dict[str, Mapping[str, Any]] = {}

    def _refuse_gpu_options(self) -> None:
        train, device = self.config.train, self.accelerator.device.type
        if train.gpu_tokens_per_pack != "auto":
            raise ConfigError(
                f"train.gpu_tokens_per_pack={train.gpu_tokens_per_pack} is for GPUs, but this run is on the {device}; set "
                "train.tokens_per_pack instead"
            )
        if train.compile == "always":
            raise ConfigError(f"train.compile=always is for GPUs, but this run is on the {device}; leave it at auto")

    def _take_adapter(self, imported: Imported) -> None:
        """Put an adapter into the memory's form and check it; the model is without it afterwards."""
        self.initial, self.adopted = in_our_form(imported, self.config.lora, self.initial)
        restore(self.model, self.adopted)
        self.compared = check_same_logits(imported, self.model)
        restore(self.model, self.initial)
        for note in self.imported_notes():
            self.progress.say(note)

    def imported_notes(self) -> list[str]:
        """What a user must know of the adapter that the memory begins with."""
        if self.imported is None:
            return []
        config, found = self.config, self.imported
        lora, rows = config.lora, config.model.adapter_rows
        notes = [
            *found.lines(),
            f"it becomes the task imported, with lora.r={lora.r}, lora.alpha={lora.alpha:g}, lora.rslora={str(lora.rslora).lower()} and "
            f"lora.target_modules={_brief(lora.target_modules)}; its logits differ from stock PEFT's by {self.compared['mean']:.2g} on "
            f"average (it changes them by {self.compared['adapter_changes']:.2g})",
            "later tasks are compared with the model that it makes: reference base is the base model with the adapter",
        ]
        if rows is None:
            notes.append(
                "its rows are not given, so the task imported is not replayed and has no scores; give --adapter-rows FILE"
            )
        if found.trained_on not in (None, config.model.name, str(self.base.model.config._name_or_path)):
            notes.append(
                f"it was trained on {found.trained_on!r} by its configuration; the base model here is {config.model.name!r}"
            )
        return [*notes, *template_notes(found.source, self.base.tokenizer)]

    def _encoder(self, longest: int) -> Encoder:
        data, day = self.config.data, self.config.model.template_date
        encoder = Encoder(
            self.base.tokenizer,
            self.base.template,
            longest,
            data.long_prompts,
            reasoning=data.reasoning,
            system=data.system,
            day=day,
            vocabulary=embeddings(self.base.model),
        )
        if day is not None and not encoder.writes_date:
            raise ConfigError(f"model.template_date={day}: the model's template writes no date; remove the setting")
        return encoder

    @property
    def identity(self) -> dict[str, Any]:
        """The parts that a memory is tied to: base model, tokenizer, template, adapter shape, strategy."""
        return {
            "base": dict(self.base.identity),
            **self.encoder.identity(),
            "lora": self.config.lora.model_dump(mode="json"),
            "strategy": self.config.strategy.model_dump(mode="json"),
        }

    def warn(self, lines: Sequence[str]) -> None:
        """Report warnings, each once in the session's life; also where no progress is reported."""
        say_once(self.said, lines, self.progress)

    def start_tracking(self) -> None:
        """Start the experiment trackers once; they write below the memory's directory, so the memory must exist."""
        if not self._tracking:
            # accelerate only warns if a tracker is not installed, and then nothing is tracked.
            if missing := [t for t in self.config.train.trackers if importlib.util.find_spec(t) is None]:
                raise ConfigError(f"train.trackers: {missing} not installed; pip install {' '.join(missing)}")
            self.accelerator.init_trackers("lifealign")
            self._tracking = True

    def settle(self) -> RunConfig:
        """The configuration of a new memory, with what is decided once in its life; says it."""
        chosen: dict[str, Any] = {"dtype": self.base.identity["dtype"]}
        if self.encoder.writes_date:
            chosen["template_date"] = self.config.model.template_date or self.encoder.day
            self.progress.say(
                f"the chat template writes today's date; this memory's prompts keep {chosen['template_date']} for its whole life"
            )
        for line in once(self.encoder.chat) if self.encoder.chat else ():
            self.progress.say(line)
        self.config = self.config.model_copy(update={"model": self.config.model.model_copy(update=chosen)})
        return self.config

    def join(self, store: MemoryReader) -> None:
        """Serve this memory; one that does not keep its template's date yet gets the day on which it was made.

        Raises:
            StoreError: see `check_identity`.
        """
        self.check_identity(store.identity, store.path)
        if (changed := follow(store, self.base.model, self.accelerator)) is not None:
            self.progress.say(changed)
        if self.encoder.writes_date and self.config.model.template_date is None:
            day = datetime.fromisoformat(store.lineage()[0].created).date()
            self.encoder.fix_date(day)
            self.progress.say(
                f"warning: the chat template writes today's date, and this memory does not keep its own; its prompts have {day}, "
                "the day on which it was made"
            )

    def check_identity(self, identity: Mapping[str, Any], where: Path) -> None:
        """Refuse a memory with another base model, tokenizer, template, adapter shape or strategy.

        Raises:
            StoreError: names the part that differs, with the value in the memory and the value loaded.
        """
        own = self.identity
        pairs = [
            ("base model weights", identity["base"]["weights"], own["base"]["weights"]),
            ("code of the base model", identity["base"].get("code"), own["base"].get("code")),
            ("tokenizer", identity["tokenizer_sha256"], own["tokenizer_sha256"]),
            ("prompt template", identity["template_sha256"], own["template_sha256"]),
            ("LoRA shape", identity["lora"], own["lora"]),
            ("strategy", identity["strategy"].get("name"), own["strategy"].get("name")),
        ]
        for what, stored, loaded in pairs:
            if stored != loaded:
                raise StoreError(f"{where}: wrong {what}: the memory has {stored}, this run has {loaded}")

    def load(self, store: MemoryReader, task: TaskManifest) -> None:
        """Put a task's long-term weights and strategy state in place."""
        # Margins of all rows of R use one unit, even if a later task was learnt with another beta.
        self.reward_beta = stored_strategy(store).reward_beta
        self._data = {name: m.config.get("data", {}) for m in store.lineage() for name in m.members}
        begun = [m for m in store.lineage() if m.meta.get(IMPORTED)]
        self.view.anchor = store.load_tensors(begun[0], ADAPTER) if begun else {}
        self._place(store.load_tensors(task, ADAPTER), store.load_tensors(task, STATE))

    @contextmanager
    def as_of(self, store: MemoryReader, task: TaskManifest) -> Iterator[None]:
        """Use the model as it was after a task; afterwards it is as it is now."""
        weights, state = snapshot(self.model), self.strategy.state_dict()
        self.load(store, task)
        try:
            yield
        finally:
            self._place(weights, state)

    def _place(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        self.strategy.load_state_dict(state)
        self.strategy.mount(self.model)
        restore(self.model, weights)

    def score(
        self,
        task: str,
        rows: Sequence[Row],
        rule: Rule | None,
        *,
        generations: int,
        max_new_tokens: int,
        title: str,
        text_metrics: Sequence[str] = (),
        names: Sequence[str] = (),
        always_answer: bool = False,
    ) -> TaskScores:
        """Scores of one task's held-out rows with the model as it is.

        Args:
            task: name.
            rows: held-out rows.
            rule: of the task; None: it has none.
            generations: greedy answers; 0: none.
            max_new_tokens: longest answer, in tokens.
            title: of the progress stages.
            text_metrics: names of text metrics of the answers.
            names: scores from outside, beside ours.
            always_answer: also answers that neither a rule nor a text metric asks for.
        """
        self.strategy.select(self.model, task)
        pairs = self._encode_stored(task, rows)
        reference = self.view.logps(pairs, base=True, title=f"{title}: reference")
        policy = self.view.logps(pairs, base=False, title=title)
        encoded = {p.digest for p in pairs}
        fitting = [row for row in rows if row.digest in encoded]
        scores = score_rows(policy, reference, pairs, self.reward_beta, names, fitting, self._point(pairs, title))
        scorer = AnswerScorer(rule, text_metrics)
        if not generations or not (scorer or always_answer):
            return TaskScores(task, scores)
        found = answer_rows(
            self.model,
            self.encoder,
            fitting,
            scorer,
            generations,
            max_new_tokens,
            self.progress,
            f"{title}: answers",
            prefix=self.strategy.prefix,
        )
        return replace(found, task=task, rows=scores | dict(found.rows))

    def _point(self, pairs: Sequence[EncodedPair], title: str) -> float:
        """KTO's reference point of held-out rows against the base model, nats; 0 without feedback among them."""
        others = with_others(pairs, FeedbackConfig())[0][len(pairs) :]
        if not others:
            return 0.0
        reference = self.view.logps(others, base=True, title=f"{title}: reference point")
        policy = self.view.logps(others, base=False, title=f"{title}: reference point")
        return reference_point(FeedbackConfig(), self.reward_beta, policy, reference, others)

    def _encode_stored(self, task: str, rows: Sequence[Row]) -> list[EncodedPair]:
        """Rows of a task with the limits that it was learnt with, so that later tasks' limits do not move its scores."""
        data = self._data.get(task)
        if not data:  # not learnt yet
            return self.encoder.encode(rows)[0]
        with limits(self.encoder, min(data["max_length"], self.base.positions), "drop"):
            return self.encoder.encode(rows)[0]

    def generate(self, prompts: Sequence[str | Sequence[Message]], **options: Any) -> list[str]:
        """Answers to prompts, each one user turn or a conversation that ends with one; see `generate.generate`."""
        self.strategy.select(self.model, None)
        turns = [turns_of(p) for p in prompts]
        return generate(self.model, self.encoder, turns, progress=self.progress, prefix=self.strategy.prefix, **options)


def _brief(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"[{shown}]" if len(names) <= 8 else f"[{shown}, ... {len(names)} in all]"


def stored_strategy(store: MemoryReader) -> Strategy:
    """The strategy that a memory was made with, without its model and state."""
    config = RunConfig.model_validate(store.identity["config"])
    return make_strategy(config.strategy, config.lora, config.seed)


@contextmanager
def limits(encoder: Encoder, max_length: int, long_prompts: Literal["error", "drop"]) -> Iterator[None]:
    """Encode with these limits for a while, for rows of a task that was learnt with them."""
    own = encoder.max_length, encoder.long_prompts
    encoder.max_length, encoder.long_prompts = max_length, long_prompts
    try:
        yield
    finally:
        encoder.max_length, encoder.long_prompts = own


@contextmanager
def taken_back(store: MemoryStore, made: Sequence[Path]) -> Iterator[None]:
    """Take a memory that was just made away again if this fails before a task, or a checkpoint of one, is in it."""
    try:
        yield
    except Exception:
        if Accelerator().is_main_process:
            with suppress(OSError, StoreError):  # the reason of the failure is worth more
                take_back(store, made)
        raise


@contextmanager
def locked(session: Session, store: MemoryStore) -> Iterator[None]:
    """Hold the memory's lock in the first process of a run."""
    with store.writer() if session.accelerator.is_main_process else nullcontext():
        yield
