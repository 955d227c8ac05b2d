"""What has been paid and what may still be: no try is sent that could take the bill above its limit. Imports no torch."""

from __future__ import annotations

import asyncio

from lifealign.judging.llm.cache import CallCache, Known
from lifealign.judging.llm.client import Call
from lifealign.judging.llm.reply import read_usage


def paid(call: Call, reply: str) -> float:
    """Cost of a reply; where the server counted no tokens, the most that it can have cost. 0 where prices are not known."""
    usage = read_usage(reply)
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return call.most_cost or 0.0
    return call.judge.cost(usage.prompt_tokens, usage.completion_tokens) or 0.0


class Bill:
    """Admits tries, and writes each one down; the `Ledger` of `client.Judge`.

    A try that may have been paid for although nothing came back counts with the most that it can have cost.

    Args:
        cache: where tries and replies are kept.
        limit: of the whole bill; None: none.
    """

    def __init__(self, cache: CallCache, limit: float | None) -> None:
        self._cache, self._limit = cache, limit
        self.spent = 0.0
        self._reserved = 0.0
        self._changed = asyncio.Condition()
        self.tries = self.replies = 0

    def carry_over(self, call: Call, known: Known) -> None:
        """Count what earlier runs paid for a call."""
        self.spent += known.unanswered * (call.most_cost or 0.0)
        if known.reply is not None:
            self.spent += paid(call, known.reply)

    async def admit(self, call: Call) -> bool:
        """Whether a try may be sent, if need be after those under way have come back; it is written down if so."""
        most = call.most_cost or 0.0
        async with self._changed:
            while self._limit is not None and self.spent + self._reserved + most > self._limit:
                if not self._reserved:
                    return False
                await self._changed.wait()
            self._reserved += most
        self._cache.sending(call.key, call.request)
        self.tries += 1
        return True

    async def refused(self, call: Call) -> None:
        """The server answered with an error: nothing is paid."""
        self._cache.refused(call.key)
        await self._settle(call, 0.0)

    async def lost(self, call: Call) -> None:
        """No answer came."""
        await self._settle(call, call.most_cost or 0.0)

    async def replied(self, call: Call, body: str) -> None:
        """The body of a successful response."""
        self._cache.replied(call.key, body)
        self.replies += 1
        await self._settle(call, paid(call, body))

    async def _settle(self, call: Call, cost: float) -> None:
        async with self._changed:
            # Rounding must not leave a crumb behind that somebody waits for.
            self._reserved = max(0.0, self._reserved - (call.most_cost or 0.0))
            if self._reserved < 1e-12:
                self._reserved = 0.0
            self.spent += cost
            self._changed.notify_all()
