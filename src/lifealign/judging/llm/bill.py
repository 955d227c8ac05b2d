"""The bill: costs paid and still possible. No try is sent that could exceed the limit. Imports no torch."""

from __future__ import annotations

import asyncio

from lifealign.judging.llm.cache import CallCache, Known
from lifealign.judging.llm.client import Call
from lifealign.judging.llm.reply import read_usage


def paid(call: Call, reply: str) -> float:
    """Cost of a reply; the most it can have cost if the server counted no tokens; 0 if prices are not known."""
    usage = read_usage(reply)
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return call.most_cost or 0.0
    return call.judge.cost(usage.prompt_tokens, usage.completion_tokens) or 0.0


class Bill:
    """Admits tries and records each of them; the `Ledger` of `client.Judge`.

    A try that may have been paid for without a reply counts at the most it can have cost.

    Args:
        cache: the store of tries and replies.
        limit: limit of the whole bill; None: no limit.
    """

    def __init__(self, cache: CallCache, limit: float | None) -> None:
        self._cache, self._limit = cache, limit
        self.spent = 0.0
        self._reserved = 0.0
        self._changed = asyncio.Condition()
        self.tries = self.replies = 0

    def carry_over(self, call: Call, known: Known) -> None:
        """Add the cost that earlier runs paid for a call."""
        self.spent += known.unanswered * (call.most_cost or 0.0)
        if known.reply is not None:
            self.spent += paid(call, known.reply)

    async def admit(self, call: Call) -> bool:
        """Whether a try may be sent; waits for tries under way if necessary, and records the try if it may."""
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
        """Settle a try that the server answered with an error: nothing is paid."""
        self._cache.refused(call.key)
        await self._settle(call, 0.0)

    async def lost(self, call: Call) -> None:
        """Settle a try without an answer: it may have been paid for."""
        await self._settle(call, call.most_cost or 0.0)

    async def replied(self, call: Call, body: str) -> None:
        """Store the body of a successful response and settle its try."""
        self._cache.replied(call.key, body)
        self.replies += 1
        await self._settle(call, paid(call, body))

    async def _settle(self, call: Call, cost: float) -> None:
        async with self._changed:
            # A rounding remainder would make other calls wait for ever.
            self._reserved = max(0.0, self._reserved - (call.most_cost or 0.0))
            if self._reserved < 1e-12:
                self._reserved = 0.0
            self.spent += cost
            self._changed.notify_all()
