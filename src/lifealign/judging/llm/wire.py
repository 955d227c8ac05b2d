"""The HTTP client below a judge's: a response is read within a limit of bytes and handed on as plain UTF-8. No torch.

Whatever a server sends, the code above sees a status, the headers of `_KEPT` and text: no redirect is followed, no charset
or compression of the server's choice is looked up, and no body grows without end.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx

LONGEST_BODY = 2 << 20
"""Bytes of a response, unpacked; a verdict has a few hundred, the reasoning before it some ten thousand."""
_KEPT = ("location", "retry-after", "retry-after-ms")
_PACKED = ("gzip", "x-gzip", "deflate")


class UnreadableError(httpx.DecodingError):
    """A response that came and cannot be read: too long, or packed in a way that was not asked for."""


class PlainClient(httpx.AsyncClient):
    """An `httpx.AsyncClient` whose responses are short and plain.

    Args:
        timeout: seconds for each part of an exchange.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout=timeout, follow_redirects=False, headers={"Accept-Encoding": "gzip, deflate"})

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request and read the whole response.

        Raises:
            UnreadableError: the response has more than `LONGEST_BODY` bytes, or cannot be unpacked.
            httpx.RequestError: no response came.
        """
        response = await super().send(request, **{**options, "stream": True})
        try:
            data = await _unpacked(response.aiter_raw(), response.headers.get("content-encoding", ""), request)
        finally:
            await response.aclose()
        found = response.headers
        kept = {name: found[name].encode("ascii", "replace").decode() for name in _KEPT if name in found}
        text = data.decode("utf-8", "replace").encode()
        headers = {**kept, "content-type": "application/json; charset=utf-8"}
        return httpx.Response(response.status_code, headers=headers, content=text, request=request)


async def _unpacked(parts: AsyncIterator[bytes], encoding: str, request: httpx.Request) -> bytes:
    """The bytes of a body, at most `LONGEST_BODY` of them even on the way."""
    names = [name for part in encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if len(names) > 1 or any(name not in _PACKED for name in names):
        raise UnreadableError(f"the response is packed as {encoding[:80]!r}, which was not asked for", request=request)
    unpack = zlib.decompressobj(47) if names else None  # 47: the header tells gzip from zlib
    data = bytearray()
    async for part in parts:
        try:
            data += unpack.decompress(part, LONGEST_BODY + 1) if unpack else part
        except zlib.error as error:
            raise UnreadableError(f"the response cannot be unpacked: {error}", request=request) from None
        if len(data) > LONGEST_BODY:
            raise UnreadableError(f"the response has more than {LONGEST_BODY:,} bytes", request=request)
    if unpack and not unpack.eof:
        raise UnreadableError("the response cannot be unpacked: it ends too early", request=request)
    return bytes(data)
