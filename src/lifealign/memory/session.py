"""A loaded model with its strategy, for learning, scoring and generating within one process."""

from __future__ import annotations

import errno
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, StoreError
from lifealign.core.files import cache_dir
from lifealign.core.progress import Progress
from lifealign.memory.composer import stored_strategy
from lifealign.memory.numerics import follow
from lifealign.memory.policy import Policy
from lifealign.memory.routing import routes_prompts
from lifealign.model.adapters import NOTES, restore, snapshot
from lifealign.model.base import load_base
from lifealign.model.encoding import Encoder
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
from lifealign.store.layout import ADAPTER, IMPORTED, SLEEP, STATE, TRACKERS, WORK
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import retired
from lifealign.store.undo import take_back
from lifealign.store.writer import MemoryStore
from lifealign.strategies import make_strategy
from lifealign.training.model_view import LoadedView


class Session(Policy):
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
        for note in getattr(self.model, NOTES, ()) if new else ():  # said once, when the memory is made
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
        self._data = {}
        self._routed = None
        self.rest = {}
        self._routes = None

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

    def load(self, store: MemoryReader, task: TaskManifest, route: bool | None = None) -> None:
        """Put a task's long-term weights and strategy state in place.

        Args:
            store: the memory.
            task: the commit.
            route: whether answers and scores route their prompts; None: as the memory was made.
        """
        # Margins of all rows of R use one unit, even if a later task was learnt with another beta.
        self.reward_beta = stored_strategy(store).reward_beta
        self._data = {name: m.config.get("data", {}) for m in store.lineage() for name in m.members}
        begun = [m for m in store.lineage() if m.meta.get(IMPORTED) and IMPORTED not in retired(store, task)]
        self.view.anchor = store.load_tensors(begun[0], ADAPTER) if begun else {}
        self._place(store.load_tensors(task, ADAPTER), store.load_tensors(task, STATE))
        self.rest = store.load_tensors(task, SLEEP) if f"{SLEEP}.safetensors" in task.files else {}
        route = routes_prompts(store, task) if route is None else route
        self._routed = (store, task) if route else None

    def load_sum(self, store: MemoryReader, task: TaskManifest) -> None:
        """Put the sum of the updates in place, which then answers all prompts, or any weights that the caller puts there."""
        self.load(store, task, route=False)
        self.rest = {}

    def load_one(self, store: MemoryReader, task: TaskManifest) -> None:
        """Put one set of weights in place that answers all prompts: those of the sleep, or else the sum of the updates."""
        self.load(store, task, route=False)
        if self.rest:
            restore(self.model, self.rest)

    def kept(self) -> Callable[[], None]:
        """A function that puts the point that is loaded now in place again, without the disk."""
        weights, state = snapshot(self.model), self.strategy.state_dict()
        policy, anchor = (self._routed, self.rest), self.view.anchor
        routes = None if self.routes is None else self._routes

        def put() -> None:
            self._place(weights, state)
            (self._routed, self.rest), self._routes, self.view.anchor = policy, routes, anchor

        return put

    @contextmanager
    def as_of(self, store: MemoryReader, task: TaskManifest) -> Iterator[None]:
        """Use the model as it was after a task; afterwards it is as it is now."""
        weights, state, policy = snapshot(self.model), self.strategy.state_dict(), (self._routed, self.rest)
        self.load(store, task)
        try:
            yield
        finally:
            self._place(weights, state)
            self._routed, self.rest = policy

    def _place(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        self.strategy.load_state_dict(state)
        self.strategy.mount(self.model)
        restore(self.model, weights)


def _brief(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"[{shown}]" if len(names) <= 8 else f"[{shown}, ... {len(names)} in all]"


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
def locked_if_allowed(session: Session, store: MemoryStore) -> Iterator[StoreError | None]:
    """`locked`, or on a read-only medium without the lock: why nothing can be written, so that what is stored is read."""
    with ExitStack() as stack:
        refused = None
        try:
            stack.enter_context(locked(session, store))
        except StoreError as error:
            if getattr(error.__cause__, "errno", None) not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            refused = error
        yield refused


@contextmanager
def locked(session: Session, store: MemoryStore) -> Iterator[None]:
    """Hold the memory's lock in the first process of a run."""
    with store.writer() if session.accelerator.is_main_process else nullcontext():
        yield
