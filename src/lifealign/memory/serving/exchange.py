"""One request and its answers: from its body to jobs of the engine, and from their events to the response."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from lifealign.memory.serving.bodies import MOST_ANSWERS, Body, Chat
from lifealign.memory.serving.engine import Delta, Done, Engine, Event, Failed, Job
from lifealign.memory.serving.errors import ApiError
from lifealign.memory.serving.feedback import Answered, Feedback
from lifealign.memory.serving.points import Points
from lifealign.memory.serving.replies import END, Choice, Response, event
from lifealign.memory.serving.text import Text


class Service:
    """Everything that the endpoints need; in the application's state.

    Args:
        points: the models.
        engine: answers jobs.
        feedback: takes votes; None: there is no such endpoint.
        key: that clients must send; None: none.
        any_host: whether to accept host names other than the loopback's.
        max_tokens: longest answer to a request that gives no length.
    """

    def __init__(
        self,
        points: Points,
        engine: Engine,
        feedback: Feedback | None,
        key: str | None,
        any_host: bool,
        max_tokens: int,
    ) -> None:
        self.points, self.engine, self.feedback = points, engine, feedback
        self.key, self.any_host, self.max_tokens = key, any_host, max_tokens


class Exchange:
    """One request and its answers.

    Args:
        service: of the application.
        body: the request.
        prompts: token ids.
        shown: the prompts as votes keep them.

    Raises:
        ApiError: no such model, too long, too many.
    """

    def __init__(self, service: Service, body: Body, prompts: Sequence[Sequence[int]], shown: Sequence[Any]) -> None:
        self.service, self.place = service, service.points.find(body.model)
        self.count = (body.n or 1) * len(prompts)
        if self.count > MOST_ANSWERS:
            raise ApiError(400, f"n: {self.count} answers in one request; at most {MOST_ANSWERS}", "n")
        is_chat = isinstance(body, Chat)
        self.answer = Response(
            f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}",
            int(time.time()),
            body.model,
            self.place.fingerprint,
            is_chat,
            sum(map(len, prompts)),
            body.usage_in_stream,
            [Choice() for _ in range(self.count)],
        )
        self.shown = [one for one in shown for _ in range(body.n or 1)]
        self.events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self.jobs = self._jobs(body, prompts)
        service.engine.submit(self.jobs)

    def _jobs(self, body: Body, prompts: Sequence[Sequence[int]]) -> list[Job]:
        encoder = self.service.engine.session.encoder
        loop = asyncio.get_running_loop()
        seed = random.getrandbits(62) if body.seed is None else body.seed

        def emit(index: int, event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.events.put_nowait, (index, event))

        def decode(ids: Sequence[int]) -> str:
            return str(encoder.tokenizer.decode(ids, skip_special_tokens=True))

        jobs: list[Job] = []
        for ids in prompts:
            longest = _longest(body, len(ids), self.service)
            for n in range(body.n or 1):
                index = len(jobs)
                jobs.append(
                    Job(
                        self.place,
                        tuple(ids),
                        Text(decode, body.stops, strip=self.answer.chat),
                        lambda event, index=index: emit(index, event),  # type: ignore[misc]
                        longest,
                        1.0 if body.temperature is None else body.temperature,
                        1.0 if body.top_p is None else body.top_p,
                        (seed + n + 2**63) % 2**64 - 2**63,
                    )
                )
        return jobs

    def cancel(self) -> None:
        """Nobody waits for the answers any more."""
        for job in self.jobs:
            job.cancelled = True

    async def _each(self) -> AsyncIterator[tuple[int, Event]]:
        """Events until every answer is whole.

        Raises:
            ApiError: an answer failed.
        """
        left = self.count
        while left:
            index, event = await self.events.get()
            choice = self.answer.choices[index]
            if isinstance(event, Failed):
                self.cancel()
                raise event.error
            if isinstance(event, Delta):
                choice.text += event.text
            if isinstance(event, Done):
                choice.finish, choice.tokens = event.finish, event.tokens
                choice.weights = None if event.weights is None else dict(event.weights)
                left -= 1
            if not left:
                self._remember()  # before the client can know the answer, and vote on it
            yield index, event

    async def whole(self) -> dict[str, Any]:
        """The response, when all answers are whole."""
        async for _ in self._each():
            pass
        return self.answer.to_json()

    async def stream(self) -> AsyncIterator[str]:
        """The response as events."""
        begun = False
        try:
            async for index, found in self._each():
                if not begun and self.answer.chat:
                    for i in range(self.count):
                        yield self.answer.chunk(i, first=True)
                begun = True
                if isinstance(found, Delta):
                    yield self.answer.chunk(index, found.text)
                elif isinstance(found, Done):
                    yield self.answer.chunk(index, finish=found.finish)
            if self.answer.usage:
                yield self.answer.last_chunk()
            yield END
        except ApiError as error:
            if not begun:
                raise
            yield event(error.to_json())
        finally:
            self.cancel()

    def _remember(self) -> None:
        if self.service.feedback is not None:
            texts = [choice.text for choice in self.answer.choices]
            found = Answered(self.shown, texts, self.answer.model, self.answer.fingerprint, time.time())
            self.service.feedback.remember(self.answer.id, found)


def _longest(body: Body, prompt: int, service: Service) -> int:
    """Most tokens of an answer.

    Raises:
        ApiError: prompt and answer are longer than the model's context.
    """
    context = service.engine.session.base.positions
    wanted = body.longest
    if prompt >= context or (wanted is not None and prompt + wanted > context):
        asked = "" if wanted is None else f" and {wanted} of the answer"
        raise ApiError(
            400,
            f"this model's context has {context} tokens; the request has {prompt} of the prompt{asked}",
            "messages" if isinstance(body, Chat) else "prompt",
            "context_length_exceeded",
        )
    return min(service.max_tokens, context - prompt) if wanted is None else wanted
