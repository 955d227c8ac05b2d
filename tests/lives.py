"""A memory's life in a few calls, for tests of strategies."""

from __future__ import annotations

from lifealign.config import RunConfig
from lifealign.pipeline import create_memory, learn_group, writing
from lifealign.progress import NullProgress
from lifealign.session import Session
from lifealign.store import MemoryStore
from lifealign.tasks import Task


def start(config: RunConfig) -> tuple[Session, MemoryStore]:
    """A loaded model and a new memory."""
    session = Session(config, NullProgress())
    return session, create_memory(config, session)


def learn(session: Session, store: MemoryStore, *tasks: Task) -> MemoryStore:
    """The memory after one task after another."""
    for task in tasks:
        with writing(session, store):
            store = learn_group(session, store, [task], session.config)[1]
    return store
