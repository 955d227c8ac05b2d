"""The client of one judge: requests through `openai`, retries with growing pauses, parameters a server rejects. No torch.

The client's own retries are off, because each try may cost money and has to be recorded. The key is read from the
environment and removed from every text that leaves this module, also where the server escaped it. `wire` bounds what a
server can send.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol

from lifealign.core.errors import JudgeError
from lifealign.judging.llm.config import EndpointConfig
from lifealign.judging.llm.keys import HIDDEN, key_pattern
from lifealign.judging.llm.reply import Unscored, shorten

if TYPE_CHECKING:
    import openai

LONGEST_PAUSE = 60.0  # seconds; a server that asks for more is not waited for
_OPTIONAL = ("response_format", "temperature", "max_completion_tokens", "max_tokens")


@dataclass(frozen=True)
class Call:
    """One request to one judge.

    Attributes:
        judge: the judge to ask.
        messages: the prompt.
        schema: JSON schema of the reply.
        max_tokens: longest reply, in tokens.
    """

    judge: EndpointConfig
    messages: list[dict[str, str]]
    schema: Mapping[str, Any]
    max_tokens: int

    @property
    def request(self) -> dict[str, Any]:
        """Everything that determines the reply; kept as the transcript."""
        return {
            "url": self.judge.url,
            "model": self.judge.model,
            "messages": self.messages,
            "schema": self.schema,
            "max_tokens": self.max_tokens,
            "temperature": 0,
        }

    @property
    def key(self) -> str:
        """SHA-256 of `request`."""
        return hashlib.sha256(json.dumps(self.request, sort_keys=True).encode()).hexdigest()

    @property
    def most_tokens(self) -> int:
        """Upper bound on the prompt tokens: one per byte, and 64 per message for the template."""
        texts = [message["content"] for message in self.messages] + [json.dumps(self.schema)]
        return sum(len(text.encode()) + 64 for text in texts)

    @property
    def most_cost(self) -> float | None:
        """Upper bound on the cost of one try; None if prices are not known."""
        return self.judge.cost(self.most_tokens, self.max_tokens)


class Ledger(Protocol):
    """Receives a report on each try, before it is sent and after."""

    async def admit(self, call: Call) -> bool:
        """Whether the try may be sent; records it if so."""

    async def refused(self, call: Call) -> None:
        """Called when the server answered with an error."""

    async def lost(self, call: Call) -> None:
        """Called when no answer came; the try may have been paid for."""

    async def replied(self, call: Call, body: str) -> None:
        """Called with the body of a successful response."""


def read_key(judge: EndpointConfig) -> str | None:
    """Read the key of a judge from the environment; None if the variable is not set.

    Raises:
        JudgeError: the value cannot be a key; the message does not show it.
    """
    key = os.environ.get(judge.key_env, "").strip()
    if not key:
        return None
    if len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key:
        raise JudgeError(
            f"environment variable {judge.key_env}: not a key; expected 8 or more printable ASCII characters, no spaces"
        )
    return key


class Judge:
    """An open connection to one judge; an async context manager."""

    def __init__(self, judge: EndpointConfig, *, timeout: float, tries: int) -> None:
        try:
            import openai
        except ImportError:
            raise JudgeError('judging needs the package openai: pip install "lifealign[judge]"') from None
        from lifealign.judging.llm.wire import PlainClient

        self.name, self._model = judge.label, judge.model
        self._timeout, self._tries = timeout, tries
        key = read_key(judge)
        self._key = key_pattern(key) if key else None
        self._url = judge.url
        self._client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=judge.url,
            timeout=timeout,
            max_retries=0,
            organization="",
            project="",
            # openai 3 is typed for httpx2, and takes the clients of httpx as well.
            http_client=PlainClient(timeout),  # type: ignore[arg-type, unused-ignore]
        )
        # Organization and project in the environment are meant for the provider's own server, not for this one.
        self._client.organization = self._client.project = None
        self._left_out: list[str] = []
        self._answered = False

    async def __aenter__(self) -> Judge:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    @property
    def left_out(self) -> list[str]:
        """Parameters that the server rejected and that were then left out."""
        return list(self._left_out)

    async def ask(self, call: Call, ledger: Ledger) -> Unscored | None:
        """Ask until a reply comes and pass it to the ledger; without a reply, return the reason.

        Raises:
            JudgeError: the server rejects the key or does not know the model, or no server answers.
        """
        import openai

        failure, pause = Unscored("unreachable"), 0.0
        pauses = random.Random(call.key)
        for attempt in range(self._tries):
            await asyncio.sleep(pause)
            if not await ledger.admit(call):
                return Unscored("max_cost")
            pause = min(8.0, 0.5 * 2**attempt) * pauses.uniform(0.75, 1.0)
            try:
                # The client's own time-out restarts with each byte; a slow server could take for ever.
                async with asyncio.timeout(self._timeout):
                    response = await self._send(call)
            except JudgeError:
                await ledger.refused(call)
                raise
            except (openai.APITimeoutError, TimeoutError):
                await ledger.lost(call)
                failure = Unscored("timeout")
            except openai.APIConnectionError as error:
                failure = self._broken(error)
                if failure.reason == "bad_response":  # it was paid for, and would be again
                    await ledger.lost(call)
                    return failure
                if failure.reason == "cut":
                    await ledger.lost(call)
                else:
                    await ledger.refused(call)
                    if not self._answered:
                        raise JudgeError(f"{self._url}: no server answers ({failure.detail}); check the URL") from None
            except openai.APIStatusError as error:
                await ledger.refused(call)
                failure = Unscored("http_error", f"HTTP {error.status_code}: {self._said(error)}")
                if error.status_code < 500 and error.status_code not in (408, 409, 425, 429):
                    return failure
                asked = _asked_pause(error)
                if asked > LONGEST_PAUSE:
                    return Unscored("http_error", f"HTTP {error.status_code}: it asks for a pause of {asked:.0f} s")
                pause = asked or pause
            else:
                self._answered = True
                await ledger.replied(call, self.hide(response))
                return None
        return failure

    async def _send(self, call: Call) -> str:
        """The body of the response; asks again without the parameters that the server rejects."""
        import openai

        while True:
            wire = self._wire(call)
            try:
                response = await self._client.chat.completions.with_raw_response.create(
                    model=call.judge.model, extra_headers={"Idempotency-Key": call.key}, **wire
                )
                body: str = response.text
                return body
            except openai.APIStatusError as error:
                if error.status_code in (401, 403, 404):
                    raise JudgeError(
                        f"{self._url}: HTTP {error.status_code} for model {self._model!r}: {self._said(error)}"
                    ) from None
                if error.status_code not in (400, 422) or not self._leave_out(self._said(error), wire):
                    raise

    def _wire(self, call: Call) -> dict[str, Any]:
        """Parameters of the request, without those that this server rejected."""
        form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": call.schema}}
        wire: dict[str, Any] = {
            "messages": call.messages,
            "response_format": form,
            "temperature": 0,
            "max_tokens": call.max_tokens,
        }
        if "max_tokens" in self._left_out:
            wire["max_completion_tokens"] = call.max_tokens
        if "system" in self._left_out:
            wire["messages"] = [{"role": "user", "content": "\n\n".join(m["content"] for m in call.messages)}]
        return {name: value for name, value in wire.items() if name not in self._left_out}

    def _leave_out(self, said: str, wire: Mapping[str, Any]) -> bool:
        """Note the optional parameters that an error message (HTTP 400 or 422) rejects; False if it names none."""
        said = said.lower()
        named = [name for name in _OPTIONAL if name in wire and name in said]
        if "max_completion_tokens" in said and "max_tokens" in wire:
            named = ["max_tokens"]  # "use max_completion_tokens instead"
        if "json_schema" in said and "response_format" in wire:
            named.append("response_format")
        if "system" in said and "role" in said and len(wire["messages"]) > 1:
            named.append("system")
        # Several calls may get the same error; each of them is sent again.
        self._left_out += [name for name in named if name not in self._left_out]
        return bool(named)

    def _broken(self, error: openai.APIConnectionError) -> Unscored:
        """The reason for a broken connection: cut, never made, or a response that cannot be read."""
        from lifealign.judging.llm.wire import UnreadableError

        cause = error.__cause__
        if isinstance(cause, UnreadableError):
            return Unscored("bad_response", shorten(self.hide(str(cause))))
        detail = shorten(self.hide(f"{type(cause).__name__}: {cause}" if cause is not None else str(error)))
        if type(cause).__name__ not in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol"):
            return Unscored("cut", detail)
        return Unscored("unreachable", detail)

    def _said(self, error: openai.APIStatusError) -> str:
        if error.status_code in range(300, 400):
            where = error.response.headers.get("location", "no address")
            return f"the server sends on to {shorten(self.hide(where))}, which is not followed; give the final URL"
        return shorten(self.hide(error.response.text))

    def hide(self, text: str) -> str:
        """The text without the key, because some servers repeat it in errors."""
        return self._key.sub(HIDDEN, text) if self._key else text


def _asked_pause(error: openai.APIStatusError) -> float:
    """Seconds to wait as the server asks (Retry-After: seconds, or a date); 0 if it does not ask."""
    for header, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        asked = error.response.headers.get(header, "")
        try:
            seconds = float(asked) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(asked).timestamp() - time.time()
            except (ValueError, OverflowError):
                continue
        if seconds > 0:  # not NaN
            return seconds
    return 0.0
