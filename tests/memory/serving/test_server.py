"""A real server and OpenAI's own client: answers, streams, errors, many clients at once, commits while it answers."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lifealign.memory.answering import Asked
from lifealign.memory.api import Memory
from lifealign.memory.serving import engine
from lifealign.testing import tiny_task
from support.server import Served, ask, serving, text_of

QUESTIONS = [f"{'bread' if i % 2 else 'stars'} question {i}?{' please' * (i % 4)}" for i in range(20)]


@pytest.fixture(scope="module")
def served(learnt: Path) -> Iterator[Served]:
    with serving(learnt) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    return served.client()


@pytest.fixture(scope="module")
def direct(learnt: Path) -> Memory:
    return Memory.open(learnt)


# --- answers ---


def test_models_are_the_points(client: Any) -> None:
    listed = [model.id for model in client.models.list()]
    assert listed == ["base", "now", "routed", "as-of:bread", "as-of:stars"]
    assert client.models.retrieve("as-of:bread").owned_by == "lifealign"


def test_greedy_answers_are_those_of_lifealign_answers(client: Any, direct: Memory) -> None:
    for record in direct.answers(Asked(at=("bread", "now"), count=3, max_new_tokens=24)):
        model = "now" if record.point == "now" else f"as-of:{record.point}"
        messages = [{"role": m.role, "content": m.content} for m in record.prompt]
        response = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=24)
        assert text_of(response) == record.answer, record.point
        assert response.model == model


def test_points_answer_differently_and_name_themselves(client: Any) -> None:
    found = {model: ask(client, QUESTIONS[0], model) for model in ("base", "as-of:bread", "now")}
    assert len({text_of(response) for response in found.values()}) == 3
    prints = [response.system_fingerprint.partition("@")[0] for response in found.values()]
    assert prints == ["0000-initial", "0001-bread", "0002-stars"]


def test_routed_answers_are_those_of_generate(client: Any, direct: Memory) -> None:
    expected = direct.generate(QUESTIONS[:4], route=True, max_new_tokens=24)
    found = [ask(client, question, "routed") for question in QUESTIONS[:4]]
    assert [text_of(response) for response in found] == expected
    assert all(set(response.choices[0].weights) == {"bread", "stars"} for response in found)


def test_usage_and_finish(client: Any, served: Served) -> None:
    response = ask(client, QUESTIONS[1], max_tokens=7)
    encoder = served.service.engine.session.encoder
    assert response.usage.prompt_tokens == len(
        encoder.tokenizer(f"<|im_start|>user\n{QUESTIONS[1]}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    )
    assert (response.usage.completion_tokens, response.choices[0].finish_reason) == (7, "length")
    assert response.usage.total_tokens == response.usage.prompt_tokens + 7
    text = text_of(ask(client, QUESTIONS[1], max_tokens=40))
    stop = text[10:13]
    cut = ask(client, QUESTIONS[1], max_tokens=40, stop=[stop, "never there"])
    assert (text_of(cut), cut.choices[0].finish_reason) == (text[: text.index(stop)].rstrip(), "stop")
    assert cut.usage.completion_tokens < 40


def test_a_stream_adds_up_to_the_answer(client: Any) -> None:
    whole = ask(client, QUESTIONS[2], n=2, stop="zzz")
    chunks = list(ask(client, QUESTIONS[2], n=2, stop="zzz", stream=True, stream_options={"include_usage": True}))
    *chunks, last = chunks
    assert last.choices == [] and last.usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in (*chunks, last)}) == 1
    for index in range(2):
        own = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in own) == whole.choices[index].message.content
        assert [c.finish_reason for c in own if c.finish_reason] == [whole.choices[index].finish_reason]
    assert len(chunks) > 6, "token by token"
    assert all(chunk.usage is None for chunk in ask(client, QUESTIONS[2], stream=True))


def test_sampling_is_repeated_by_its_seed_alone(client: Any) -> None:
    options = {"temperature": 1.0, "top_p": 0.95, "n": 3}
    first, again, other = (ask(client, QUESTIONS[3], seed=seed, **options) for seed in (7, 7, 8))
    texts = [[choice.message.content for choice in response.choices] for response in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) == 3
    without = {text_of(ask(client, QUESTIONS[3], temperature=1.0)) for _ in range(3)}
    assert len(without) == 3


def test_completions_continue_texts_without_a_template(client: Any, served: Served) -> None:
    options = {"model": "now", "max_tokens": 8, "temperature": 0}
    both = client.completions.create(prompt=["the answer is", "how do I"], n=2, **options)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    one = client.completions.create(prompt="the answer is", **options)
    assert both.choices[0].text == both.choices[1].text == one.choices[0].text != both.choices[2].text
    ids = served.service.engine.session.encoder.text_ids("the answer is")
    assert client.completions.create(prompt=ids, **options).choices[0].text == one.choices[0].text
    assert one.usage.prompt_tokens == len(ids)
    streamed = client.completions.create(prompt="the answer is", stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in streamed) == one.choices[0].text


# --- errors ---


@pytest.mark.parametrize(
    ("options", "error", "param"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model"),
        ({"max_tokens": 5000}, openai.BadRequestError, "messages"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"presence_penalty": 1}, openai.BadRequestError, "presence_penalty"),
        ({"extra_body": {"top_k": 3}}, openai.BadRequestError, "top_k"),
        ({"n": 200}, openai.BadRequestError, "n"),
        ({"model": "gpt-4o", "stream": True}, openai.NotFoundError, "model"),
    ],
)
def test_errors_are_those_of_openai(client: Any, options: dict[str, Any], error: Any, param: str) -> None:
    with pytest.raises(error) as caught:
        ask(client, "hi", **options)
    assert caught.value.param == param
    assert set(caught.value.body) == {"message", "type", "param", "code"}


def test_a_long_prompt_is_refused_before_it_waits(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="context has 512 tokens") as caught:
        ask(client, "bread " * 600)
    assert caught.value.code == "context_length_exceeded"


def test_requests_that_are_no_requests(served: Served) -> None:
    url = served.url
    refused = {
        404: httpx.get(f"{url}/v1/nothing"),
        405: httpx.get(f"{url}/v1/chat/completions"),
        415: httpx.post(f"{url}/v1/completions", content="{}"),
        400: httpx.post(f"{url}/v1/completions", content="{", headers={"content-type": "application/json"}),
        403: httpx.get(f"{url}/v1/models", headers={"sec-fetch-site": "cross-site"}),
        413: httpx.post(f"{url}/v1/completions", json={"prompt": "x" * (9 << 20)}),
    }
    assert {wanted: found.status_code for wanted, found in refused.items()} == {code: code for code in refused}
    assert all("message" in found.json()["error"] for found in refused.values())
    foreign = httpx.get(f"{url}/v1/models", headers={"host": "evil.example"})
    assert foreign.status_code == 400 and "this name" in foreign.json()["error"]["message"]
    assert httpx.get(f"{url}/health").json()["status"] == "ok"


def test_without_feedback_nothing_is_kept(client: Any, served: Served) -> None:
    response = ask(client, "hi")
    voted = httpx.post(f"{served.url}/v1/feedback", json={"id": response.id, "label": True})
    assert voted.status_code == 404 and "--feedback FILE" in voted.json()["error"]["message"]


def test_a_batch_that_fails_takes_only_its_requests_along(
    client: Any, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = engine.write

    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine, "write", broken)
    with pytest.raises(openai.InternalServerError, match="RuntimeError; the server's log"):
        ask(client, "hi", stream=True)
    assert "out of memory" in caplog.text
    monkeypatch.setattr(engine, "write", write)
    assert text_of(ask(client, "hi"))


# --- several at once ---


def test_twenty_clients_get_the_answers_that_one_gets(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    write = engine.write

    def counted(model: Any, encoder: Any, answers: Any, *args: Any, **options: Any) -> None:
        sizes.append(len(answers))
        write(model, encoder, answers, *args, **options)

    monkeypatch.setattr(engine, "write", counted)
    kinds: list[dict[str, Any]] = [
        {},
        {"model": "base"},
        {"temperature": 1.0, "seed": 5},
        {"max_tokens": 9},
        {"model": "routed"},
    ]
    asked = [(question, kinds[i % len(kinds)]) for i, question in enumerate(QUESTIONS)]
    alone = [text_of(ask(served.client(), question, **options)) for question, options in asked]
    assert sizes == [1] * 20
    gate = threading.Barrier(20)

    def one(question: str, options: dict[str, Any], stream: bool) -> str:
        client = served.client()
        gate.wait()
        if not stream:
            return text_of(ask(client, question, **options))
        return "".join(c.choices[0].delta.content or "" for c in ask(client, question, stream=True, **options))

    sizes.clear()
    with ThreadPoolExecutor(20) as pool:
        running = [pool.submit(one, *request, i % 3 == 0) for i, request in enumerate(asked)]
    assert [future.result() for future in running] == alone
    assert max(sizes) > 1, "at least two shared a batch"


def test_a_request_joins_a_batch_that_runs_and_takes_its_turn(
    served: Served, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long answer does not make short ones wait, of its point or of another, and is not changed by them."""
    long = {"max_tokens": 300, "extra_body": {"stop": ["zzzz"]}}
    alone = text_of(ask(client, QUESTIONS[4], **long))
    monkeypatch.setattr(engine, "SHARE", 0.0)
    monkeypatch.setattr(engine, "SLICE", 0.0)
    stream = ask(client, QUESTIONS[4], stream=True, **long)
    pieces = [next(stream).choices[0].delta.content, next(stream).choices[0].delta.content]
    short = [text_of(ask(client, "hi", model, max_tokens=3)) for model in ("now", "base")]
    until = time.monotonic() + 10
    while sum(served.service.engine.load().values()) > 1 and time.monotonic() < until:
        time.sleep(0.001)  # an answer is sent a moment before its place is free
    assert all(short) and sum(served.service.engine.load().values()) == 1
    assert "".join([*pieces, *(chunk.choices[0].delta.content or "" for chunk in stream)]) == alone


def test_a_client_that_leaves_stops_its_answer(served: Served, client: Any) -> None:
    stream = ask(client, QUESTIONS[5], max_tokens=450, stream=True)
    next(stream)
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        ask(served.client().with_options(timeout=0.05), QUESTIONS[5], max_tokens=450)
    until = time.monotonic() + 10
    while any(served.service.engine.load().values()) and time.monotonic() < until:
        time.sleep(0.01)
    assert served.service.engine.load() == {"waiting": 0, "running": 0}


def test_more_requests_than_may_wait_are_sent_away(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WAITING", 2)
    with pytest.raises(openai.RateLimitError, match="try again later"):
        ask(served.client(), "hi", n=3)


# --- a memory that changes, votes, keys ---


def test_a_commit_while_requests_run_loses_and_mixes_none(memory: Path) -> None:
    with serving(memory) as served:
        stop, found = threading.Event(), []

        def keep_asking(number: int) -> None:
            own = served.client()
            while not stop.is_set():
                question = QUESTIONS[number]
                response = ask(own, question, max_tokens=16)
                found.append((question, response.system_fingerprint.partition("@")[0], text_of(response)))

        threads = [threading.Thread(target=keep_asking, args=(i,)) for i in range(4)]
        long = ask(served.client(), QUESTIONS[6], max_tokens=400, stream=True)
        first = next(long)
        for thread in threads:
            thread.start()
        Memory.open(memory).learn(tiny_task("music", 8, 2), settings=["train.learning_rate=0.05"])
        until = time.monotonic() + 20
        while not any(point == "0003-music" for _, point, _ in found) and time.monotonic() < until:
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
        chunks = list(long)
        assert {chunk.system_fingerprint for chunk in chunks} == {first.system_fingerprint}
        assert served.said == ["now serving 0003-music, after 0002-stars"]
        assert "as-of:music" in [model.id for model in served.client().models.list()]
    after = Memory.open(memory)
    questions = QUESTIONS[:4]
    expected = {
        point: dict(zip(questions, after.generate(questions, as_of=point, max_new_tokens=16), strict=True))
        for point in ("0002-stars", "0003-music")
    }
    assert {point for _, point, _ in found} == set(expected)
    assert [(q, p) for q, p, text in found if expected[p][q] != text] == []
    assert expected["0002-stars"] != expected["0003-music"]


def test_votes_become_rows(memory: Path, tmp_path: Path) -> None:
    votes = tmp_path / "votes.jsonl"
    with serving(memory, feedback=votes) as served:
        client = served.client()
        response = ask(client, "hi", n=2, temperature=1.0, max_tokens=5)
        streamed = list(ask(client, "bye", stream=True, max_tokens=5))
        client.post("/feedback", body={"id": response.id, "label": True, "choice": 1}, cast_to=object)
        vote = {"id": streamed[0].id, "label": False, "correction": "see you", "consent": True}
        assert httpx.post(f"{served.url}/v1/feedback", json=vote).json() == {
            "id": vote["id"],
            "object": "feedback",
            "label": False,
        }
        for bad, status in (({"id": "x", "label": True}, 404), ({"id": response.id}, 400), ({**vote, "stars": 5}, 400)):
            assert httpx.post(f"{served.url}/v1/feedback", json=bad).status_code == status
        rows = [json.loads(line) for line in votes.read_text().splitlines()]
    assert rows[0]["completion"][0]["content"] == response.choices[1].message.content
    assert rows[1]["prompt"] == [{"role": "user", "content": "bye"}]
    assert rows[1]["completion"][0]["content"] == "".join(c.choices[0].delta.content or "" for c in streamed)
    assert rows[1]["metadata"]["point"] == streamed[0].system_fingerprint
    assert [row["label"] for row in rows] == [True, False] and rows[1]["correction"] == "see you"


def test_a_key_is_asked_for_and_points_are_limited(memory: Path) -> None:
    with serving(memory, key="secret", only=["now"]) as served:
        with pytest.raises(openai.AuthenticationError) as caught:
            ask(served.client("another"), "hi")
        assert not {"secret", "another"} & set(re.findall(r"\w+", str(caught.value)))
        client = served.client("secret")
        assert [model.id for model in client.models.list()] == ["now"]
        assert text_of(ask(client, "hi"))
        with pytest.raises(openai.NotFoundError):
            ask(client, "hi", "base")
        assert httpx.get(f"{served.url}/health").status_code == 200
