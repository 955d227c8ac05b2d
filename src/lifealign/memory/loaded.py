"""The model of a memory: loaded when it is first needed, with the options of a call. Imports no torch by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifealign.core.progress import NullProgress, Progress
from lifealign.memory.life import MemoryLife
from lifealign.store.writer import MemoryStore

if TYPE_CHECKING:
    from lifealign.core.config import RunConfig
    from lifealign.data.tasks import Task
    from lifealign.memory.drifting import Drift, DriftAsked
    from lifealign.memory.outcomes import Recovery
    from lifealign.memory.session import Session


class LoadedMemory(MemoryLife):
    """The part of a `Memory` that holds its model."""

    def __init__(self, store: MemoryStore, session: Session | None = None) -> None:
        """Called by `create`, `open` and `run_stream`."""
        super().__init__(store, set() if session is None else session.said)
        self._loaded = session
        self._first: Task | None = None
        self._made: list[Path] = []

    def loaded(self, progress: Progress | None = None) -> Session:
        """The loaded model, for a caller who puts points of the memory into it himself, such as a server."""
        return self._session(self.config, progress)

    def drift(self, asked: DriftAsked, *, progress: Progress | None = None) -> Drift:
        """Measure how the model drifted over the points of the memory's life; stored values are reused.

        Args:
            asked: measures, points and prompts; see `DriftAsked` for the errors.
            progress: where to report.
        """
        from lifealign.memory.drifting import measure_drift

        config = self.config
        return measure_drift(self._store, lambda: self._session(config, progress), asked, config.evaluate.bootstrap)

    def recover(
        self,
        task: str,
        *,
        as_of: str | None = None,
        prompts: str | Path | None = None,
        space: str = "adapter",
        out: str | Path | None = None,
        note: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Recovery:
        """Recover an earlier task from its prompts alone, in a commit of its own that `rollback` undoes.

        Elements of the weights are put back to their values at an earlier point where that brings the representation of the
        task's prompts back, as long as the newest task keeps its accuracy (arXiv 2504.09757).

        Args:
            task: its name.
            as_of: the point whose weights still know it; None: right after it was learnt.
            prompts: a file of prompts of the task; None: those of the replay and validation rows that the memory keeps.
            space: `adapter`, for a commit, or `merged`, for a merged model at `out`.
            out: a directory that is missing or empty.
            note: a sentence to keep with the commit.
            progress: where to report.
            options: of `RecoverOptions`, such as ``rate=0.01``.

        Raises:
            ConfigError: an option out of its range, something at `out`, or a memory without weights of this space.
            DataError: a task that cannot be recovered; the memory is as it was.
            StoreError: no such point.
        """
        from lifealign.core.files import free_directory
        from lifealign.memory.life import checked_note
        from lifealign.memory.recovery.config import RecoverOptions, checked_space
        from lifealign.memory.recovery.points import find_points

        chosen, kept, where = RecoverOptions(**options), checked_note(note), checked_space(space, out)
        target = None if out is None else free_directory(out)
        points = find_points(self._store, task, as_of, None if prompts is None else str(prompts))
        from lifealign.memory.recovery.run import recover

        try:
            return recover(
                lambda: self._session(self.config, progress), self._store, points, chosen, where, target, kept
            )
        finally:
            if target is not None:
                self._loaded = None  # its model is given up

    def _with_options(self, sections: Mapping[str, Mapping[str, Any]], *, early: bool = False) -> RunConfig:
        """The memory's configuration with these options of some sections, checked like a file; None: as configured.

        `early`: without loading the strategy; see `configure.check_early`.
        """
        from lifealign.strategies.configure import check_tree

        tree = self.config.model_dump(mode="json")
        for section, options in sections.items():
            given = {k: str(v) if isinstance(v, Path) else v for k, v in options.items() if v is not None}
            tree[section] = {**tree[section], **given}
        return check_tree(tree, "settings", early)

    def _with_settings(self, settings: Sequence[str]) -> RunConfig:
        from lifealign.memory.settings import with_settings

        self._find_code()
        return with_settings(self.config, settings, self.path)

    def _find_code(self, progress: Progress | None = None) -> list[str]:
        """Find the outside code that the memory was made with; warn once about changes since, and return the warnings."""
        from lifealign.memory.code import find_code

        changed = find_code(self._store.identity, self.path)
        self._say(changed, progress)
        return changed

    def _session(self, config: RunConfig, progress: Progress | None) -> Session:
        """The loaded model, with the options of this call."""
        from lifealign.memory.session import Session

        changed = self._find_code(progress)
        if self._loaded is None or self._loaded.config != config:
            session = Session(config, progress or NullProgress())
            session.join(self._store)
            session.said, session.changed = self._said, changed
            self._loaded = session
        if progress is not None:
            self._loaded.progress = self._loaded.view.progress = progress
        return self._loaded
