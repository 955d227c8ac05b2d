"""A memory's life in a few calls, for tests of strategies."""

from __future__ import annotations

from lifealign.core.config import RunConfig
from lifealign.core.progress import NullProgress
from lifealign.data.tasks import Task
from lifealign.memory.learning import create_memory, learn_group
from lifealign.memory.session import Session, locked
from lifealign.store.writer import MemoryStore


def start(config: RunConfig) -> tuple[Session, MemoryStore]:
    """A loaded model and a new memory."""
    session = Session(config, NullProgress())
    return session, create_memory(config, session)


def learn(session: Session, store: MemoryStore, *tasks: Task) -> MemoryStore:
    """The memory after one task after another."""
    for task in tasks:
        with locked(session, store):
            store = learn_group(session, store, [task], session.config)[1]
    return store
