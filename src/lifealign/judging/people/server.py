"""The page where people rate answers: FastAPI, templates, one small script. No torch.

A personal link is a token; opening it puts the token in a cookie. Every change is a POST that carries a second token
derived from the first. The server replies only after the rating is on the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from lifealign.core import web
from lifealign.core.addresses import names_loopback
from lifealign.core.errors import StoreError
from lifealign.judging.people import views
from lifealign.judging.people.database import Rating, Ratings
from lifealign.judging.people.summary import summarise

LONGEST_BODY = 64_000  # bytes of a form
BODY_SECONDS = 20.0
"""How long a form may take to arrive."""
MOST_FIELDS = 40
FORM = "application/x-www-form-urlencoded"
"""The one type in which our pages send their forms."""
LONGEST_COMMENT = 4_000  # characters
COOKIE_SECONDS = 90 * 24 * 3600
router = APIRouter()
HEADERS = {
    **web.HEADERS,
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True)
class Rater:
    """The annotator who sends a request.

    Attributes:
        name: name of the annotator.
        csrf: token that each of their forms carries.
    """

    name: str
    csrf: str


class Pages:
    """The ratings and the templates; in the application's state.

    Args:
        ratings: the store of the ratings.
        any_host: whether to accept host names other than the loopback's.
        overview: token of the page that shows how far everybody is; None: there is no such page.
    """

    def __init__(self, ratings: Ratings, any_host: bool, overview: str | None) -> None:
        self.ratings = ratings
        self.any_host = any_host
        self.overview = overview
        self.references = views.shows_references(ratings.questions())
        # Cookies do not distinguish ports, so two batches on one machine need two names.
        self.cookie = f"lifealign-{ratings.name}"
        self._environment = Environment(
            loader=PackageLoader("lifealign.judging.people", "pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["visible"] = views.visible

    def render(self, name: str, rater: Rater | None, status: int = 200, **values: Any) -> HTMLResponse:
        """Render a page with the rater's progress at the top."""
        done, total = self.ratings.progress(rater.name) if rater else (0, 0)
        template = self._environment.get_template(f"{name}.html.j2")
        return HTMLResponse(template.render(rater=rater, done=done, total=total, **values), status)

    def problem(self, status: int, message: str) -> HTMLResponse:
        """Render a page with an error message."""
        return self.render("problem", None, status, title=HTTPStatus(status).phrase, message=message)


def create_app(ratings: Ratings, *, any_host: bool = False, overview: str | None = None) -> FastAPI:
    """Create the web application.

    Args:
        ratings: the store of the ratings.
        any_host: whether to accept host names other than the loopback's. If not, requests by other names are refused,
            because they come from a foreign page whose name was made to point here (DNS rebinding).
        overview: see `Pages`.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.pages = Pages(ratings, any_host, overview)
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.middleware("http")(_guard)
    app.exception_handler(StarletteHTTPException)(_refused)
    app.exception_handler(StoreError)(_not_stored)
    app.exception_handler(ClientDisconnect)(_gone)
    return app


# --- before and after every request ---


def _pages(request: Request) -> Pages:
    pages: Pages = request.app.state.pages
    return pages


async def _guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse bad requests before they are handled, and add the headers of every response."""
    refusal = _refusal(request, _pages(request).any_host)
    response = _pages(request).problem(*refusal) if refusal else await call_next(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _refusal(request: Request, any_host: bool) -> tuple[int, str] | None:
    if not any_host and not names_loopback(request.headers.get("host", "")):
        return 400, "This server does not answer to this name. Open your personal link."
    if request.method not in ("GET", "HEAD"):
        # Browsers send this header; for an old one that does not, the form's token must do.
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "This was sent from another site."
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= LONGEST_BODY):
            return 413, "This is too long. Please shorten your comment."
    return None


def _refused(request: Request, error: StarletteHTTPException) -> HTMLResponse:
    return _pages(request).problem(error.status_code, str(error.detail))


def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # for nobody: the client left in the middle of its form


def _not_stored(request: Request, error: StoreError) -> HTMLResponse:
    logging.getLogger(__name__).error("%s", error)
    page = (
        "<!doctype html><title>Not saved</title><main><p>This could not be saved. Earlier ratings are safe.</p></main>"
    )
    return HTMLResponse(page, 503)


def rater_of(request: Request) -> Rater:
    """The annotator whose cookie a request carries.

    Raises:
        HTTPException: 401, no annotator has this cookie.
    """
    pages = _pages(request)
    token = request.cookies.get(pages.cookie, "")
    name = pages.ratings.annotator_of(token) if token else None
    if name is None:
        raise HTTPException(401, "Open your personal link first. The person who invited you can send it again.")
    return Rater(name, hmac.new(token.encode(), b"form", hashlib.sha256).hexdigest())


KnownRater = Annotated[Rater, Depends(rater_of)]


async def fields_of(request: Request, rater: KnownRater) -> dict[str, str]:
    """Fields of a form sent from one of our pages.

    Raises:
        HTTPException: 415, 408 or 400, the request is no form of ours; 403, the form does not carry our token.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise HTTPException(415, "This is not a form of this page.")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = await request.body()  # no longer than its header says, which `_refusal` has read
    except TimeoutError:
        raise HTTPException(408, "This took too long to arrive. Please send it again.") from None
    try:
        # Browsers send UTF-8, whatever charset a header names.
        fields = dict(parse_qsl(data.decode(), True, errors="strict", max_num_fields=MOST_FIELDS))
    except ValueError:
        raise HTTPException(400, "This is not a form of this page.") from None
    if not hmac.compare_digest(fields.pop("csrf", "").encode(), rater.csrf.encode()):
        raise HTTPException(403, "This page is out of date. Open your personal link again.")
    return fields


Fields = Annotated[dict[str, str], Depends(fields_of)]

# --- pages ---


@router.get("/join/{token}")
def join(token: str, request: Request) -> Response:
    """Open a personal link: from now on this browser belongs to that annotator."""
    pages = _pages(request)
    if pages.ratings.annotator_of(token) is None:
        raise HTTPException(404, "This link does not work. The person who invited you can send it again.")
    response = RedirectResponse("/guide", 303)
    # Lax: with `strict` a link opened from a mail would arrive without its cookie.
    secure = request.url.scheme == "https"
    response.set_cookie(pages.cookie, token, max_age=COOKIE_SECONDS, httponly=True, samesite="lax", secure=secure)
    return response


@router.get("/guide")
def guide(request: Request, rater: KnownRater) -> Response:
    """Show the guide: the questions and the keys."""
    pages = _pages(request)
    values = views.guide_page(list(pages.ratings.rubrics.values()), pages.ratings.mode)
    return pages.render("guide", rater, **values)


@router.get("/")
def question(request: Request, rater: KnownRater) -> Response:
    """Show the next question, or thanks after the last one."""
    pages = _pages(request)
    assignment = pages.ratings.next(rater.name)
    if assignment is None:
        return pages.render("done", rater)
    rubric = pages.ratings.rubrics[assignment.question.rubric]
    values = views.question_page(assignment, pages.ratings.mode, rubric, pages.references)
    return pages.render("question", rater, **values)


@router.get("/overview/{token}")
def overview(token: str, request: Request) -> Response:
    """Show whoever started the server how far everybody is, how fast they are and how far they agree."""
    pages = _pages(request)
    if pages.overview is None or not hmac.compare_digest(token.encode(), pages.overview.encode()):
        raise HTTPException(404, "This link does not work. The command that serves this page prints a new one.")
    return pages.render("overview", None, **views.overview_page(summarise(pages.ratings)))


@router.post("/rate")
def rate(request: Request, rater: KnownRater, fields: Fields) -> Response:
    """Save a rating."""
    try:
        _pages(request).ratings.save(rater.name, _whole(fields, "position"), read_rating(fields))
    except ValueError as reason:
        raise HTTPException(400, f"Not saved: {reason}") from None
    return RedirectResponse("/", 303)


@router.post("/undo")
def undo(request: Request, rater: KnownRater, fields: Fields) -> Response:
    """Ask the last question again."""
    _pages(request).ratings.undo(rater.name)
    return RedirectResponse("/", 303)


# --- forms ---


def read_rating(fields: Mapping[str, str]) -> Rating:
    """Read a rating from a form's fields.

    Raises:
        ValueError: a value that our pages do not send; the message names it.
    """
    comment = fields.get("comment", "").strip()
    if len(comment) > LONGEST_COMMENT:
        raise ValueError(f"the comment is too long: {len(comment)} characters, at most {LONGEST_COMMENT} allowed")
    unable = "unable" in fields
    return Rating(
        winner=None if unable else fields.get("winner"),
        score=None if unable or "score" not in fields else _whole(fields, "score"),
        steps={name.removeprefix("step-"): value for name, value in fields.items() if name.startswith("step-")},
        flag=unable or "flag" in fields,
        comment=comment,
        seconds=_seconds(fields.get("seconds", "")),
    )


def _whole(fields: Mapping[str, str], name: str) -> int:
    text = fields.get(name, "")
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 10):
        raise ValueError(f"{name} must be a whole number, got {text[:20]!r}")
    return int(text)


def _seconds(text: str) -> float | None:
    """Seconds measured by the page's script; None without it."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value < 1e6 else None
