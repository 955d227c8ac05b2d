"""What a hostile or broken server can send: each call ends soon, scored or unscored with its reason, within limits."""

from __future__ import annotations

import base64
import gzip
import html
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lifealign.core.errors import ConfigError
from lifealign.judging.llm.config import read_judge_config
from lifealign.judging.llm.engine import judge_answers
from lifealign.judging.llm.judgements import read_judgements, write_judgements
from lifealign.judging.llm.keys import HIDDEN, key_pattern
from lifealign.judging.llm.reply import Unscored, read_reply, read_usage
from lifealign.judging.llm.summary import summarise
from lifealign.judging.llm.wire import LONGEST_BODY
from support.judge_server import completion, reply
from support.judging import HELPFULNESS, answer, judges

GOOD = json.dumps(reply()).encode()
N = 200_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```json\n" + "\n" * N + "x", "bad_json"),
        ("~~~" + " \n" * 9000 + "{}" + " \n" * 9000 + "x", "words_around"),
        ("<think>" * N, "bad_json"),
        ("</think>" * N, "bad_json"),
        ("{" * N, "bad_json"),
        ('{"explanation":' + "[" * N, "bad_json"),
        ('{"explanation":' + "[" * 60 + "]" * 60 + ',"score":7}', "bad_json"),
        ('{"explanation":"x","score":' + "9" * 4000 + "}", "out_of_scale"),
        ('{"explanation":"x","score":' + "9" * N + "}", "bad_json"),
        ('{"explanation":"x","score":NaN}', "out_of_scale"),
        ('{"explanation":"x","score":1e400}', "out_of_scale"),
        ('{"explanation":"x","score":true}', "wrong_schema"),
        ('{"explanation":"x","score":7,"score":8}', "bad_json"),
        ("{" + ",".join(f'"{i}":1' for i in range(50_000)) + "}", "wrong_schema"),
    ],
)
def test_a_hostile_text_is_read_in_no_time(text: str, reason: str) -> None:
    started = time.process_time()
    found = read_reply(json.dumps(completion(text)), HELPFULNESS, False)
    assert time.process_time() - started < 2
    assert isinstance(found, Unscored) and found.reason == reason
    assert len(found.detail) < 300


@pytest.mark.parametrize("count", ["1" + "0" * 400, "1" + "0" * 10, "9" * 5000, "-1", "true", '"5"', "1e999", "[]"])
def test_a_usage_that_cannot_be_is_not_counted(count: str) -> None:
    assert read_usage(f'{{"usage": {{"prompt_tokens": {count}, "completion_tokens": 3}}}}').prompt_tokens is None


def plain(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SENT: list[tuple[bytes, bytes, str | None]] = [
    *(
        (plain(GOOD, "200 OK", f"Content-Type: application/json; charset={name}"), b"", None)
        for name in ("idna", "zlib")
    ),
    (plain(GOOD, "200 OK", "Content-Type: text/html; charset=undefined"), b"", None),
    (plain(b'{"error": "no"}', "400 No", "Content-Type: application/json; charset=idna"), b"", "http_error"),
    (plain(gzip.compress(GOOD), "200 OK", "Content-Encoding: gzip"), b"", None),
    (plain(gzip.compress(b" " * (LONGEST_BODY + 1)), "200 OK", "Content-Encoding: gzip"), b"", "bad_response"),
    (plain(gzip.compress(GOOD)[:-9], "200 OK", "Content-Encoding: gzip"), b"", "bad_response"),
    (plain(GOOD, "200 OK", "Content-Encoding: br"), b"", "bad_response"),
    (plain(b"\xff\xfe" + GOOD), b"", "bad_response"),
    (plain(b"<html>"), b"", "bad_response"),
    (plain(b"[" * N), b"", "bad_response"),
    (b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536, "bad_response"),
    (b"HTTP/1.1 500 No\r\n\r\n", b" " * 65536, "bad_response"),
    (CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n", "bad_response"),
    (CHUNKED + b"ZZ\r\n", b"", "cut"),
    (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000, "cut"),
    (b"\x16\x03\x01" + bytes(300), b"", "cut"),
    (plain(b"", "307 Go", "Location: http://\xff\xfe/"), b"", "http_error"),
    (plain(b"", "302 Go", "Location: /v1/chat/completions"), b"", "http_error"),
    *(
        (plain(b"{}", "429 Slow", f"Retry-After: {asked}"), b"", "http_error")
        for asked in ("1e9", "-5", "nan", "Wed, 21 Oct 2099 07:28:00 GMT", "\xd9\xa1")
    ),
]


@pytest.fixture
def url() -> Iterator[str]:
    """A server that reads the number of its answer in the request, and sends the last part until its client leaves."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve(client: socket.socket) -> None:
        with closing(client):
            data = b""
            while (end := data.find(b"\r\n\r\n")) < 0 or len(data) < end + 4 + _length(data[:end]):
                data += client.recv(65536)
            first, more, _ = SENT[int(data.partition(b"What colour is sky ")[2].partition(b"?")[0])]
            try:
                client.sendall(first)
                while more:
                    client.sendall(more)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    listening.close()


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


def test_whatever_a_server_sends_its_call_ends_with_a_reason(url: str, tmp_path: Path) -> None:
    records = [answer(number=i) for i in range(len(SENT))]
    found, _ = judge_answers(judges(url, tries=1, timeout=30.0, concurrency=4), records, tmp_path / "c.sqlite")
    assert [one.unscored for one in found] == [reason for *_, reason in SENT]
    details = [one.detail for one in found]
    assert "HTTP 302: the server sends on to /v1/chat/completions, which is not followed; give the final URL" in details
    assert "HTTP 429: it asks for a pause of 1000000000 s" in details
    assert f"the response has more than {LONGEST_BODY:,} bytes" in details
    write_judgements(tmp_path / "j.jsonl", found)
    assert read_judgements(tmp_path / "j.jsonl") == found
    assert summarise(found).scored == sum(reason is None for *_, reason in SENT)


def test_a_key_is_found_in_every_spelling() -> None:
    key = "sk-\"a'b\\c/d+e=f&g<h>%i"
    escaped = json.dumps(key)
    spelt = [key, escaped, json.dumps(escaped), escaped.replace("/", "\\/"), repr(key), html.escape(key)]
    spelt += ["".join(f"\\u{ord(c):04X}" for c in key), "".join(f"&#{ord(c)};" for c in key)]
    spelt += [urllib.parse.quote(key, safe=safe) for safe in ("", "/", "/+=&'")]
    spelt += [base64.b64encode(f"{before}{key}x".encode()).decode() for before in ("", "a", "ab", "Bearer ")]
    spelt += [base64.urlsafe_b64encode(key.encode()).decode(), key.encode().hex()]
    pattern = key_pattern(key)
    assert [text for text in spelt if pattern.search(f"..{text}..") is None] == []
    assert json.loads(pattern.sub(HIDDEN, json.dumps({"your key": key}))) == {"your key": HIDDEN}
    assert pattern.search(key[:-1] + "j") is None


@pytest.mark.parametrize(
    "judge", [{"key_env": "sk-secret"}, {"key_env": ["sk-secret"]}, {"url": "sk-secret"}, "sk-secret", ["sk-secret"]]
)
def test_a_key_in_the_wrong_place_is_not_repeated(judge: object) -> None:
    whole = {"url": "http://127.0.0.1:1/v1", "model": "m", **judge} if isinstance(judge, dict) else judge
    with pytest.raises(ConfigError) as caught:
        read_judge_config(None, {"judges": [whole]})
    assert "secret" not in str(caught.value)
