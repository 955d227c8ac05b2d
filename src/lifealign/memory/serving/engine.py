"""The queue of a server and the one thread that owns the model: waiting requests of one point are answered in one batch.

A batch is formed from the first request that waits and those that can share its weights. A request that comes while a
batch runs joins it as soon as reading all prompts again costs little beside what was written since (`SHARE`); requests
of other points take turns by the same rule. A request that is running keeps the weights that it began with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lifealign.core.errors import UserError
from lifealign.memory.serving.errors import ApiError
from lifealign.memory.serving.loading import Loader, Weights
from lifealign.memory.serving.points import Place
from lifealign.memory.serving.text import Text
from lifealign.memory.session import Session
from lifealign.model.streaming import Answer, Finish, write

WAITING = 1024
"""Most answers that may wait."""
SHARE = 4.0
"""A batch is formed anew at the earliest when writing took this many times as long as reading its prompts."""
SLICE = 0.3
"""... and this many seconds."""


@dataclass(frozen=True)
class Delta:
    """More text of an answer."""

    text: str


@dataclass(frozen=True)
class Done:
    """An answer is whole.

    Attributes:
        finish: why it ended.
        tokens: number of tokens written, the end among them.
        weights: of the tasks, if the prompt was routed.
    """

    finish: Finish
    tokens: int
    weights: Weights | None


@dataclass(frozen=True)
class Failed:
    """An answer that will not come."""

    error: ApiError


Event = Delta | Done | Failed


@dataclass(eq=False)
class Job:
    """One answer that was asked for.

    Attributes:
        place: the point that answers.
        prompt: token ids.
        text: of the answer.
        emit: called by the engine's thread with each event.
        max_new_tokens: most tokens to write. 1 <= max_new_tokens.
        temperature: 0 is greedy. 0 <= temperature.
        top_p: nucleus. 0 < top_p <= 1.
        seed: of the sampling.
        cancelled: nobody waits for it any more.
        weights: of the tasks, once a routed prompt was weighed.
    """

    place: Place
    prompt: Sequence[int]
    text: Text
    emit: Callable[[Event], None]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    cancelled: bool = False
    weights: Weights | None = None
    answer: Answer = field(init=False)

    def __post_init__(self) -> None:
        self.answer = Answer(self.prompt, self._read, self.max_new_tokens, self.temperature, self.top_p, self.seed)

    @property
    def key(self) -> tuple[str, bool, Weights | None]:
        """Answers with equal keys can share a batch."""
        return self.place.task.sha256, self.place.routed, self.weights

    def fail(self, status: int, message: str) -> None:
        """Report that no answer will come."""
        self.emit(Failed(ApiError(status, message)))

    def _read(self, answer: Answer) -> bool:
        """Give out the text so far; whether the answer goes on."""
        if self.cancelled:
            return False
        if new := self.text.grow(answer.ids, last=answer.finish is not None):
            self.emit(Delta(new))
        ended: Finish | None = "stop" if self.text.stopped else answer.finish
        if ended is not None:
            self.emit(Done(ended, answer.count, self.weights))
        return ended is None


class Engine:
    """Answers jobs in batches, in a thread of its own.

    Args:
        session: of the memory; nobody else may use its model.
        batch_size: most answers at once. 1 <= batch_size.

    Attributes:
        answered: number of answers given.
    """

    def __init__(self, session: Session, batch_size: int = 16) -> None:
        self.session, self._size = session, batch_size
        self._loader = Loader(session)
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self.answered = 0
        self._thread = threading.Thread(target=self._run, name="lifealign-engine", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs.

        Raises:
            ApiError: 429, too many wait already; 503, the server is stopping.
        """
        with self._changed:
            if self._closed:
                raise ApiError(503, "the server is stopping; try another one")
            if len(self._waiting) + len(jobs) > WAITING:
                raise ApiError(429, f"{len(self._waiting)} answers wait already; try again later")
            self._waiting.extend(jobs)
            self._changed.notify()

    def load(self) -> dict[Literal["waiting", "running"], int]:
        """Number of answers that wait and that are being written."""
        return {"waiting": len(self._waiting), "running": len(self._running)}

    @property
    def alive(self) -> bool:
        """Whether jobs are still answered."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop after the answers that are being written were cancelled; those of a server that ended in peace are done."""
        with self._changed:
            self._closed = True
            for job in (*self._waiting, *self._running):
                job.cancelled = True
            self._changed.notify()
        self._thread.join()

    # --- in the engine's thread ---

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._waiting = deque(job for job in self._waiting if not job.cancelled)
                jobs = [job for job in self._waiting if job.key == self._waiting[0].key]
            if jobs:
                self._guarded(jobs, self._weigh if jobs[0].place.routed and jobs[0].weights is None else self._answer)

    def _guarded(self, jobs: Sequence[Job], step: Callable[[Sequence[Job]], None]) -> None:
        """Take a step with jobs; if it fails, they fail, and the server goes on."""
        try:
            step(jobs)
        except UserError as error:
            self._drop(jobs, str(error))
        except Exception as error:
            logging.getLogger(__name__).exception("a batch failed")
            self._drop(jobs, f"the answer failed: {type(error).__name__}; the server's log has the traceback")

    def _drop(self, jobs: Sequence[Job], message: str) -> None:
        with self._changed:
            hit = [job for job in self._running or jobs if job.answer.finish is None]
            self._waiting = deque(job for job in self._waiting if job not in hit)
            self._running = []
        for job in hit:
            job.fail(500, message)

    def _weigh(self, jobs: Sequence[Job]) -> None:
        """Weigh the tasks for routed prompts; the jobs go on waiting."""
        for job, weights in zip(jobs, self._loader.weigh(jobs[0].place, [job.prompt for job in jobs]), strict=True):
            job.weights = weights

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Answer as many jobs as a batch takes, until all have ended or the batch is formed anew."""
        with self._changed:
            self._running = list(jobs[: self._size])
            for job in self._running:
                self._waiting.remove(job)
        running, started = self._running, time.monotonic()
        self._loader.put(running[0].place, running[0].weights)
        session, read = self.session, 0.0

        def pause() -> bool:
            nonlocal read
            spent = time.monotonic() - started
            read = read or spent
            return bool(self._waiting) and spent - read > max(SHARE * read, SLICE) and self._worth_it(running)

        write(
            session.model,
            session.encoder,
            [job.answer for job in running],
            session.base.positions,
            prefix=session.strategy.prefix,
            pause=pause,
        )
        self._end(running)

    def _worth_it(self, running: Sequence[Job]) -> bool:
        """Whether a job waits that could join, or that has waited for its turn."""
        with self._changed:
            mine = running[0].key
            same = [job.key == mine for job in self._waiting if not job.cancelled]
        room = self._size - sum(job.answer.finish is None for job in running)
        return not all(same) or (room > 0 and any(same))

    def _end(self, running: Sequence[Job]) -> None:
        """Count what is done; the rest goes on first, or after the jobs of other points that wait."""
        left = [job for job in running if job.answer.finish is None]
        with self._changed:
            self.answered += len(running) - len(left)
            self._running = []
            if all(job.key == running[0].key for job in self._waiting):
                self._waiting.extendleft(reversed(left))
            else:
                self._waiting.extend(left)
