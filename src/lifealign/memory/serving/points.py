"""Points of a memory's life as models of the server, by name; a new commit is taken as soon as the gates hold. No torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifealign.core.errors import ConfigError, UserError
from lifealign.core.files import read_bytes
from lifealign.data.answers import BASE
from lifealign.evaluation.gates import Gate, GateResult, NoValue
from lifealign.memory.life import MemoryLife
from lifealign.memory.serving.errors import ApiError
from lifealign.store.layout import HEAD, TAGS
from lifealign.store.manifest import TaskManifest, evaluation_files
from lifealign.store.reader import NOW, MemoryReader
from lifealign.store.writer import MemoryStore

AS_OF = "as-of:"
ROUTED = "routed"


@dataclass(frozen=True)
class Place:
    """The point of a memory that answers a request.

    Attributes:
        reader: the memory as it was when the request came.
        task: the point.
        routed: whether the tasks are weighed for each prompt.
    """

    reader: MemoryReader
    task: TaskManifest
    routed: bool = False

    @property
    def fingerprint(self) -> str:
        """Names the weights: the task's directory and the beginning of its manifest's checksum."""
        return f"{self.task.directory}@{self.task.sha256[:12]}" + (f"+{ROUTED}" if self.routed else "")


@dataclass(frozen=True)
class Required:
    """What must hold of a memory that is served.

    Attributes:
        gates: conditions, as `evaluate --gate` reads them.
        no_value: whether a gate without a value holds.
        split: held-out rows whose scores count; None: as configured.
    """

    gates: Sequence[str] = ()
    no_value: NoValue = "fail"
    split: str | None = None

    def check(self, life: MemoryLife) -> list[GateResult]:
        """Whether the gates hold for a memory.

        Raises:
            ConfigError: a gate that cannot be read.
        """
        if not self.gates:
            return []
        life.score_notes()  # a gate may name a score from outside that only the memory's records know
        try:
            gates = [Gate.parse(text, life.tasks(with_retired=True)) for text in self.gates]
        except ConfigError as error:
            raise ConfigError(str(error).replace("--gate", "--require", 1)) from None
        return life.check(gates, split=self.split, no_value=self.no_value)


class Points:
    """The models of a server.

    Args:
        path: the memory's directory.
        only: names that are served; empty: all.
        required: gates, checked again for each new commit.
        say: tells the user a sentence.

    Attributes:
        results: of the gates, for the memory as it was opened.

    Raises:
        ConfigError: a name in `only` that is no point, or a gate that cannot be read.
        StoreError: not a memory, or damaged.
    """

    def __init__(
        self, path: Path, only: Sequence[str] = (), required: Required | None = None, say: Callable[[str], None] = print
    ) -> None:
        self.path, self._say = path, say
        self._only: tuple[str, ...] = ()
        self._required = required or Required()
        self._lock = threading.Lock()
        self._seen = self._marks()
        self._reader = MemoryStore.open(path)
        self.results = self._required.check(MemoryLife(self._reader, set()))
        self._unrouted: tuple[str, str | None] = ("", None)
        for name in only:
            try:
                self.find(name)
            except ApiError as error:
                raise ConfigError(f"--points {name!r}: {error.message}") from None
        self._only = tuple(dict.fromkeys(only))

    @property
    def reader(self) -> MemoryReader:
        """The memory as it is served now."""
        return self._reader

    def names(self) -> list[str]:
        """The models, in the order in which they are listed."""
        reader = self._reader
        if self._only:
            return [name for name in self._only if self._look(name) is not None]
        tasks = list(dict.fromkeys(name for m in reader.lineage()[1:] for name in m.members))
        directories = {m.directory for m in reader.lineage()}
        tags = [name for name, tag in reader.tags().items() if tag.directory in directories]
        routed = [] if self._no_route(reader) else [ROUTED]
        return [BASE, NOW, *routed, *(AS_OF + name for name in (*tasks, *tags))]

    def find(self, name: str) -> Place:
        """The point of a model.

        Raises:
            ApiError: 404, there is none; lists the models.
        """
        place = None if self._only and name not in self._only else self._look(name)
        if place is not None:
            return place
        why = f": {reason}" if name == ROUTED and (reason := self._no_route(self._reader)) else ""
        known = ", ".join(self.names())
        raise ApiError(404, f"model {name[:80]!r} is not served{why}; models: {known}", "model", "model_not_found")

    def _look(self, name: str) -> Place | None:
        reader = self._reader
        if name == BASE:
            return Place(reader, reader.lineage()[0])
        if name == NOW:
            return Place(reader, reader.head, self._routes(reader, reader.head))
        if name == ROUTED:
            return None if self._no_route(reader) else Place(reader, reader.head, routed=True)
        if not name.startswith(AS_OF):
            return None
        try:
            task = reader.find(name.removeprefix(AS_OF))
        except UserError:
            return None
        return Place(reader, task, self._routes(reader, task))

    def _routes(self, reader: MemoryReader, task: TaskManifest) -> bool:
        """Whether a point of a memory that was made with `strategy.route` is answered by routes."""
        return bool(reader.config["strategy"].get("route")) and task.index > 0 and not self._no_route(reader)

    def refresh(self) -> None:
        """Take what was committed, tagged or rolled back since, if the gates hold; otherwise keep what is served, and say so."""
        with self._lock:
            try:
                marks = self._marks()
                if marks == self._seen:
                    return
                self._seen = marks
                reader = MemoryStore.open(self.path)
                self._check(reader)
                self._no_route(reader)
            except UserError as error:
                self._say(f"warning: still serving {self._reader.head.directory}: {error}")
                return
            if reader.head != self._reader.head:
                self._say(f"now serving {reader.head.directory}, after {self._reader.head.directory}")
            self._reader = reader

    def _no_route(self, reader: MemoryReader) -> str | None:
        """See `why_not_routed`, which imports torch: a server that its gates refuse ends without it."""
        from lifealign.memory.routing import why_not_routed

        head = reader.head.sha256
        if self._unrouted[0] != head:
            self._unrouted = (head, why_not_routed(reader, reader.head))
        return self._unrouted[1]

    def _check(self, reader: MemoryStore) -> None:
        if reader.identity != self._reader.identity:
            raise ConfigError(f"{self.path} is another memory now; start the server again to serve it")
        failed = [result.line() for result in self._required.check(MemoryLife(reader, set())) if not result.held]
        if failed:
            raise ConfigError(f"{reader.head.directory} is not taken, because {'; '.join(failed)}")

    def _marks(self) -> tuple[object, ...]:
        """What changes when the memory does: a commit is on disk before its scores are."""
        tags = self.path / TAGS
        scores = len(evaluation_files(self.path)) if self._required.gates else 0
        return read_bytes(self.path / HEAD), read_bytes(tags) if tags.exists() else b"", scores
