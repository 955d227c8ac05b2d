"""The web application: OpenAI's endpoints on the engine, thumbs, health. Errors are in OpenAI's form."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lifealign.core.addresses import names_loopback
from lifealign.core.errors import DataError, StoreError
from lifealign.memory.serving.bodies import Body, Chat, Completion, read_body, short
from lifealign.memory.serving.errors import ApiError
from lifealign.memory.serving.exchange import Exchange, Service
from lifealign.memory.serving.feedback import Vote
from lifealign.memory.serving.points import Place

LONGEST_BODY = 8 << 20  # bytes
BODY_SECONDS = 60.0
"""How long a body may take to arrive."""
router = APIRouter()


def create_app(service: Service) -> FastAPI:
    """Create the web application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    app.include_router(router)
    app.exception_handler(ApiError)(_refused)
    app.exception_handler(HTTPException)(_no_such_page)
    app.exception_handler(StoreError)(_not_stored)
    app.exception_handler(ClientDisconnect)(_gone)
    return app


# --- before every request ---


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _guard(request: Request) -> None:
    """Refuse requests of foreign pages and, where a key is set, without it.

    Raises:
        ApiError: the reason.
    """
    service = _service(request)
    if not service.any_host and not names_loopback(request.headers.get("host", "")):
        raise ApiError(400, "this server does not answer to this name; use 127.0.0.1 or localhost")
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise ApiError(403, "this was sent by a page of another site")
    if service.key is not None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), service.key.encode()):
            raise ApiError(401, "wrong or missing API key; send it as a bearer token", code="invalid_api_key")


GUARDED = [Depends(_guard)]


async def _data(request: Request) -> bytes:
    """The body of a request.

    Raises:
        ApiError: it is too long, not JSON, or does not arrive.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be JSON, with content-type application/json")
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > LONGEST_BODY:
                    raise ApiError(413, f"the body has more than {LONGEST_BODY:,} bytes")
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
    return bytes(data)


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return JSONResponse(error.to_json(), error.status)


def _no_such_page(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    found = ApiError(error.status_code, f"{short(request.method)} {short(request.url.path)}: {error.detail}")
    return JSONResponse(found.to_json(), error.status_code)


def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # for nobody: the client left in the middle of its body


def _not_stored(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(ApiError(503, str(error)).to_json(), 503)


# --- endpoints ---


@router.get("/health")
def health(request: Request) -> Response:
    """Whether answers are given, and how many wait."""
    service = _service(request)
    state = "ok" if service.engine.alive else "stopped"
    return JSONResponse({"status": state, **service.engine.load()}, 200 if state == "ok" else 503)


@router.get("/v1/models", dependencies=GUARDED)
def models(request: Request) -> dict[str, Any]:
    """List the points that are served."""
    points = _service(request).points
    points.refresh()
    return {"object": "list", "data": [_model(name, points.find(name)) for name in points.names()]}


@router.get("/v1/models/{name}", dependencies=GUARDED)
def model(request: Request, name: str) -> dict[str, Any]:
    """Show one point."""
    points = _service(request).points
    points.refresh()
    return _model(name, points.find(name))


def _model(name: str, place: Place) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(datetime.fromisoformat(place.task.created).timestamp()),
        "owned_by": "lifealign",
        "point": place.fingerprint,
    }


@router.post("/v1/chat/completions", dependencies=GUARDED)
async def chat(request: Request) -> Response:
    """Answer a conversation."""
    body = read_body(Chat, await _data(request))
    turns = body.turns()
    try:
        ids = _service(request).engine.session.encoder.prompt_ids(turns)
    except DataError as error:  # the template refuses it
        raise ApiError(400, str(error), "messages") from None
    shown = [{"role": turn.role, "content": turn.content} for turn in turns]
    return await _respond(request, body, [ids], [shown])


@router.post("/v1/completions", dependencies=GUARDED)
async def completions(request: Request) -> Response:
    """Continue texts, without a template."""
    body = read_body(Completion, await _data(request))
    encoder = _service(request).engine.session.encoder
    prompts = body.prompts(encoder.text_ids, encoder.vocabulary or len(encoder.tokenizer))
    shown = [str(encoder.tokenizer.decode(ids, skip_special_tokens=False)) for ids in prompts]
    return await _respond(request, body, prompts, shown)


@router.post("/v1/feedback", dependencies=GUARDED)
async def feedback(request: Request) -> dict[str, Any]:
    """Take a vote on an answer; it is on the disk when this returns."""
    found = _service(request).feedback
    if found is None:
        raise ApiError(404, "this server takes no feedback; start it with --feedback FILE")
    vote = read_body(Vote, await _data(request))
    await run_in_threadpool(found.take, vote)
    return {"id": vote.id, "object": "feedback", "label": vote.label}


# --- an answer ---


async def _respond(request: Request, body: Body, prompts: Sequence[Sequence[int]], shown: Sequence[Any]) -> Response:
    """Queue the answers to a request, and send them as they come or as a whole."""
    service = _service(request)
    await run_in_threadpool(service.points.refresh)
    exchange = Exchange(service, body, prompts, shown)
    if not body.stream:
        return await _whole(request, exchange)
    events = exchange.stream()
    first = await anext(events)  # an answer that fails at once gets its HTTP status
    return StreamingResponse(
        _rest(first, events), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


async def _whole(request: Request, exchange: Exchange) -> Response:
    task = asyncio.create_task(exchange.whole())
    try:
        while not (await asyncio.wait([task], timeout=0.5))[0]:
            if await request.is_disconnected():
                return Response(status_code=499)
        return JSONResponse(task.result())
    finally:
        exchange.cancel()
        task.cancel()


async def _rest(first: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    async with aclosing(events):  # type: ignore[type-var]
        yield first
        async for text in events:
            yield text
