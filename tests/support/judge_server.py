"""A scripted OpenAI-compatible server on loopback: sensible verdicts, and every fault that a real one has shown.

A request's fault is a function of its content and of how often it was asked, so that a run can be repeated. The server
counts as paid what a provider would: every complete or broken 200, by the request's content.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[[dict[str, Any], int], Any]
"""(request, how often this content was asked before) -> a reply of `reply`, or the name of a fault."""

FAULTS = ("429", "500", "slow", "cut", "bad_json", "wrong_schema", "empty", "bad_response", "out_of_scale", "refusal")
PAID_FAULTS = ("bad_json", "wrong_schema", "empty", "out_of_scale", "refusal")
SLOW = 6.0


class JudgeServer:
    """What was asked and what was paid.

    Attributes:
        url: base URL.
        requests: bodies, in order of arrival.
        asked: content -> how often it came.
        paid: content -> how often a whole completion was sent for it.
        most: requests that were under way at once.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.tokens = [0, 0]
        self.most = self._now = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                outer.handle(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *args: Any) -> None:  # a client that was killed
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        body = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        content = hashlib.sha256(json.dumps([body["model"], body["messages"]]).encode()).hexdigest()
        with self.lock:
            before = self.asked[content]
            self.asked[content] += 1
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in http.headers.items()})
            http.left = False  # type: ignore[attr-defined]
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            self.answer(http, body, content, self.script(body, before))
        finally:
            self.leave(http)

    def leave(self, http: BaseHTTPRequestHandler) -> None:
        """The request counts no longer: from before its answer is sent (the next one may come before this thread goes on),
        or from before it outlives its client's patience."""
        with self.lock:
            self._now -= not http.left  # type: ignore[attr-defined]
            http.left = True  # type: ignore[attr-defined]

    def answer(self, http: BaseHTTPRequestHandler, body: dict[str, Any], content: str, said: Any) -> None:
        time.sleep(0.01)  # so that requests are seen together
        if isinstance(said, tuple):  # (status, text)
            return self.send(http, said[0], said[1])
        if said == "429":
            return self.send(http, 429, '{"error": {"message": "slow down"}}', {"retry-after-ms": "20"})
        if said == "500":
            return self.send(http, 500, "<html>internal error</html>", {"retry-after-ms": "20"})
        if said == "slow":
            self.leave(http)
            time.sleep(SLOW)
            said = reply()
        if said == "bad_response":
            return self.send(http, 200, '{"id": "1", "choi')
        if said == "drip":
            http.send_response(200)
            http.send_header("Content-Length", "20")
            http.end_headers()
            for _ in range(20):
                http.wfile.write(b" ")
                time.sleep(0.2)
            return None
        if said == "cut":
            self.leave(http)
            http.send_response(200)
            http.send_header("Content-Type", "application/json")
            http.send_header("Content-Length", "5000")
            http.end_headers()
            http.wfile.write(b'{"choices": [{"mess')
            http.close_connection = True
            return None
        texts = {
            "bad_json": "Score: 8/10. The answer is good.",
            "wrong_schema": '{"explanation": "fine", "score": "8"}',
            "empty": "",
            "out_of_scale": '{"explanation": "superb", "score": 11}',
            "refusal": "I'm sorry, but I can't judge this.",
        }
        document = completion(texts[said]) if isinstance(said, str) and said in texts else said
        with self.lock:
            self.paid[content] += 1
            usage = document.get("usage") or {}
            self.tokens[0] += usage.get("prompt_tokens", 0)
            self.tokens[1] += usage.get("completion_tokens", 0)
        self.send(http, 200, json.dumps(document))

    def send(self, http: BaseHTTPRequestHandler, *answer: Any) -> None:
        self.leave(http)
        send(http, *answer)
        return None


def send(http: BaseHTTPRequestHandler, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    data = text.encode()
    http.send_response(status)
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        **(headers or {}),
    }.items():
        http.send_header(name, value)
    http.end_headers()
    http.wfile.write(data)


def completion(text: Any, finish: str = "stop", usage: tuple[int, int] | None = (100, 20), **message: Any) -> Any:
    """A chat completion with this text."""
    found: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
        ],
    }
    if usage:
        found["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return found


def reply(score: int = 7, **more: Any) -> Any:
    """A verdict; `usage` and `finish` go to `completion`."""
    extra = {name: more.pop(name) for name in ("usage", "finish") if name in more}
    return completion(json.dumps({**more, "explanation": "It does what is asked.", "score": score}), **extra)


def winner(name: str, **more: Any) -> Any:
    return completion(json.dumps({**more, "explanation": "The better one.", "winner": name}))


def material(request: dict[str, Any], block: str) -> str:
    """A block of the request's material, e.g. ``answer`` or ``answer A``."""
    text = request["messages"][-1]["content"]
    start = text.index(f" begin {block} ===\n") + len(f" begin {block} ===\n")
    return text[start : text.index(f" end {block} ===", start)].rpartition("\n=== ")[0]


@contextmanager
def serving(script: Script) -> Iterator[JudgeServer]:
    server = JudgeServer(script)
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
        thread.join()
