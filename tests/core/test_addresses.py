"""Addresses to listen on: answers leave without delay."""

from __future__ import annotations

import asyncio
import socket

from lifealign.core.addresses import listen


def test_answers_are_sent_without_delay() -> None:
    """asyncio turns Nagle's algorithm off only for a socket that names its protocol; with it, answers waited 40 ms."""
    found: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def ask() -> None:
        async with await asyncio.start_server(answer, sock=(listening := listen("127.0.0.1", 0))):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            await reader.read()
            writer.close()

    asyncio.run(ask())
    assert found == [1]
