"""The viewer as a web application: FastAPI, the pages of reports, and one stream of events. It writes nothing. No torch.

The link that the command prints carries a token, and opening it puts the token in a cookie; nothing is shown without it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from lifealign.core.addresses import names_loopback
from lifealign.core.errors import UserError
from lifealign.core.web import HEADERS
from lifealign.data.answers import read_answers
from lifealign.memory.api import Memory
from lifealign.memory.card import to_html
from lifealign.report.answers import build_threads, render_page
from lifealign.report.memories import render_html, scores_csv
from lifealign.report.render import template
from lifealign.report.viewer.live import Tail
from lifealign.report.viewer.pages import Shelf, link

POLL = 1.0
"""Seconds between two looks at a live log."""
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
router = APIRouter()


@dataclass(frozen=True)
class Viewer:
    """What the application shows, and to whom.

    Attributes:
        shelf: what is below the folder.
        token: what a browser must hold.
        any_host: whether to accept host names other than the loopback's.
    """

    shelf: Shelf
    token: str
    any_host: bool = False

    @property
    def cookie(self) -> str:
        """Name of the cookie. Cookies do not distinguish ports, so two viewers on one machine need two names."""
        return f"lifealign-view-{hashlib.sha256(self.token.encode()).hexdigest()[:8]}"


def create_app(viewer: Viewer) -> FastAPI:
    """Create the web application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.viewer = viewer
    app.include_router(router)
    app.middleware("http")(_guard)
    app.exception_handler(StarletteHTTPException)(_refused)
    app.exception_handler(UserError)(_unreadable)
    return app


# --- before and after every request ---


def _viewer(request: Request) -> Viewer:
    viewer: Viewer = request.app.state.viewer
    return viewer


async def _guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse requests without the token, by foreign names or to change something; add the headers of every response."""
    viewer = _viewer(request)
    held = request.cookies.get(viewer.cookie, "")
    refusal = None
    if not viewer.any_host and not names_loopback(request.headers.get("host", "")):
        refusal = 400, "This server does not answer to this name. Open the link that the command printed."
    elif request.method not in ("GET", "HEAD"):
        refusal = 405, "Nothing can be changed here."
    elif not request.url.path.startswith("/open/") and not _same(held, viewer.token):
        refusal = 401, "Open the link that the command printed; it lets this browser in."
    response = _problem(*refusal) if refusal else await call_next(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Content-Security-Policy", _policy(""))
    return response


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _policy(page: str) -> str:
    """The content policy of a page: its own scripts by their hashes, its styles, and nothing from elsewhere."""
    digests = (hashlib.sha256(script.encode()).digest() for script in _SCRIPT.findall(page))
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {scripts or chr(39) + 'none' + chr(39)}; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _page(text: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(text, status, {"Content-Security-Policy": _policy(text)})


def _show(name: str, values: Mapping[str, Any]) -> HTMLResponse:
    return _page(template(f"view_{name}.html.j2").render(values))


def _problem(status: int, message: str) -> HTMLResponse:
    page = template("view_problem.html.j2").render(title=HTTPStatus(status).phrase, message=message)
    return _page(page, status)


def _refused(request: Request, error: StarletteHTTPException) -> HTMLResponse:
    return _problem(error.status_code, str(error.detail))


def _unreadable(request: Request, error: UserError) -> HTMLResponse:
    return _problem(404, str(error))


def _path(request: Request, kind: str, name: str) -> Path:
    """See `Shelf.path`.

    Raises:
        HTTPException: 404.
    """
    path = _viewer(request).shelf.path(kind, name)
    if path is None:
        raise HTTPException(404, f"There is no {name!r} here any more.")
    return path


def _memory(request: Request, name: str) -> Path:
    return _path(request, "memories", name)


def _below(page: str, *links: tuple[str, str]) -> HTMLResponse:
    """A page that is complete by itself, with the way back above it."""
    bar = template("view_bar.html.j2").render(links=links)
    return _page(page.replace("<body>", f"<body>\n{bar}", 1))


# --- pages ---


@router.get("/open/{token}")
def enter(token: str, request: Request) -> Response:
    """Open the printed link: from now on this browser may look."""
    viewer = _viewer(request)
    if not _same(token, viewer.token):
        raise HTTPException(404, "This link is of an earlier start. Open the one that the command printed last.")
    response = RedirectResponse("/", 303)
    response.set_cookie(viewer.cookie, token, httponly=True, samesite="lax", secure=request.url.scheme == "https")
    return response


@router.get("/")
def index(request: Request) -> Response:
    """List memories, studies and files of answers."""
    return _show("index", _viewer(request).shelf.index())


@router.get("/memory/{name:path}")
def memory(request: Request, name: str) -> Response:
    """Show a memory's verdict, log and what it is learning."""
    return _show("memory", _viewer(request).shelf.memory(name, _memory(request, name)))


@router.get("/diff/{name:path}")
def diff(request: Request, name: str, a: str = "", b: str = "") -> Response:
    """Compare two points of a memory."""
    return _show("diff", _viewer(request).shelf.diff(name, _memory(request, name), a, b))


@router.get("/card/{name:path}")
def card(request: Request, name: str) -> Response:
    """Show a memory's card."""
    page = to_html(Memory.open(_memory(request, name)).card())
    return _below(page, ("/", "All"), (link("memory", name), name))


@router.get("/report/{name:path}/results.json")
def results(request: Request, name: str) -> Response:
    """Download what a report is made from."""
    found = _viewer(request).shelf.results(_memory(request, name))
    return Response(json.dumps(found, indent=2) + "\n", media_type="application/json")


@router.get("/report/{name:path}/scores.csv")
def scores(request: Request, name: str) -> Response:
    """Download a report's scores."""
    return Response(scores_csv(_viewer(request).shelf.results(_memory(request, name))), media_type="text/csv")


@router.get("/report/{name:path}/")
def report(request: Request, name: str) -> Response:
    """Show the report of a memory as it is now."""
    page = render_html(_viewer(request).shelf.results(_memory(request, name)))
    return _below(page, ("/", "All"), (link("memory", name), name))


@router.get("/study/{name:path}")
def study(request: Request, name: str) -> Response:
    """Show the page of a study."""
    return _below(_viewer(request).shelf.studies.page(_path(request, "studies", name)), ("/", "All"))


@router.get("/answers/{name:path}")
def answers(request: Request, name: str) -> Response:
    """Browse a file of answers."""
    threads = build_threads(read_answers(_path(request, "answers", name)))
    return _below(render_page(threads, name), ("/", "All"))


@router.get("/live/{name:path}")
async def live(request: Request, name: str) -> Response:
    """Send the steps of a task that is being learnt as they come."""
    path = await run_in_threadpool(_memory, request, name)
    return StreamingResponse(_events(request, Tail(path)), media_type="text/event-stream")


async def _events(request: Request, tail: Tail) -> AsyncIterator[str]:
    ended = False
    while not await request.is_disconnected():
        what, lines = await run_in_threadpool(tail.read)
        if lines or what == "begun" or (what == "ended" and not ended):
            yield f"event: {what}\ndata: {json.dumps(lines)}\n\n"
        else:
            yield ":\n\n"  # a client that is gone shows only when something is sent
        ended = what == "ended"
        await asyncio.sleep(POLL)
