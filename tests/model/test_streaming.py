"""Answers of one batch: equal to `generate`'s, each with its own length and sampling, and unchanged by a pause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lifealign.data.prompts import CutAnswer
from lifealign.data.tasks import Message
from lifealign.model.encoding import Encoder
from lifealign.model.generate import generate
from lifealign.model.streaming import Answer, write
from support.tiny import make_model, make_tokenizer

WORDS = ["bread", "home", "music", "stars", "time", "red", "blue", "rivers"]
PROMPTS = [(Message("user", f"tell me about {word} please " * (i % 3 + 1)),) for i, word in enumerate(WORDS)]
ENCODER = Encoder(make_tokenizer(), "chat", 256)

pytestmark = pytest.mark.usefixtures("one_thread")


def texts(model: Any, prompts: Any, pause: Callable[[], bool] = lambda: False, **options: Any) -> list[str]:
    answers = [Answer(ENCODER.prompt_ids(p), lambda answer: True, **{"max_new_tokens": 32} | options) for p in prompts]
    while left := [answer for answer in answers if answer.finish is None]:
        write(model, ENCODER, left, 512, pause=pause)
    return [str(ENCODER.tokenizer.decode(a.ids, skip_special_tokens=True)).strip() for a in answers]


@pytest.mark.parametrize(("kind", "different"), [("llama", 8), ("gpt2", 5), ("mistral", 1)])
def test_greedy_answers_are_those_of_generate_in_any_batch_and_after_any_pause(kind: str, different: int) -> None:
    """A window of 8 tokens does not reach back to the question, so its answers are alike."""
    model = make_model(kind)
    expected = generate(model, ENCODER, PROMPTS, max_new_tokens=32)
    steps = iter(range(10_000))
    assert texts(model, PROMPTS) == expected
    assert texts(model, PROMPTS, pause=lambda: next(steps) % 5 == 4) == expected
    assert [texts(model, [prompt])[0] for prompt in PROMPTS] == expected
    assert len(set(expected)) >= different
    whole = [Answer(ENCODER.prompt_ids(p), lambda answer: True, max_new_tokens=32) for p in PROMPTS]
    write(model, ENCODER, whole, 512, pause=lambda: False)
    assert [isinstance(text, CutAnswer) for text in expected] == [answer.finish == "length" for answer in whole]


def test_a_batch_and_a_pause_do_not_change_what_is_drawn() -> None:
    model, options = make_model(), {"temperature": 0.9, "top_p": 0.9}
    together = texts(model, PROMPTS, seed=3, **options)
    steps = iter(range(10_000))
    assert [texts(model, [prompt], seed=3, **options)[0] for prompt in PROMPTS] == together
    assert texts(model, PROMPTS, pause=lambda: next(steps) % 5 == 4, seed=3, **options) == together
    assert texts(model, PROMPTS, seed=4, **options) != together


def test_answers_of_one_batch_end_each_by_itself() -> None:
    model, seen = make_model(), []

    def read(answer: Answer) -> bool:
        seen.append(len(answer.ids))
        return len(answer.ids) < 5

    short, stopped, long = (
        Answer(ENCODER.prompt_ids(PROMPTS[0]), lambda answer: True, 3),
        Answer(ENCODER.prompt_ids(PROMPTS[1]), read, 20),
        Answer(ENCODER.prompt_ids(PROMPTS[2]), lambda answer: True, 9, temperature=1.0),
    )
    write(model, ENCODER, [short, stopped, long], 512)
    assert [(a.count, a.finish) for a in (short, stopped, long)] == [(3, "length"), (5, "stop"), (9, "length")]
    assert seen == [1, 2, 3, 4, 5]


def test_an_end_is_counted_and_is_no_part_of_the_answer() -> None:
    model = make_model()
    first = Answer(ENCODER.prompt_ids(PROMPTS[0]), lambda answer: True, 20)
    write(model, ENCODER, [first], 512)
    place, token = next((i, token) for i, token in enumerate(first.ids) if token != first.ids[0])
    encoder = Encoder(make_tokenizer(), "chat", 256)
    encoder.tokenizer.eos_token = encoder.tokenizer.convert_ids_to_tokens(token)
    encoder._eos = token
    again = Answer(ENCODER.prompt_ids(PROMPTS[0]), lambda answer: True, 20)
    write(model, encoder, [again], 512)
    assert (again.ids, again.count, again.finish) == (first.ids[:place], place + 1, "stop")


def test_the_context_ends_an_answer() -> None:
    prompt = ENCODER.prompt_ids(PROMPTS[0])
    answer = Answer(prompt, lambda answer: True, 400)
    write(make_model("gpt2"), ENCODER, [answer], len(prompt) + 6)
    assert (answer.count, answer.finish) == (6, "length")


def test_a_nucleus_leaves_out_what_is_outside() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    drawn = [Answer((), lambda answer: True, 1, 1.0, 0.7, seed).choose(logits) for seed in range(200)]
    assert set(drawn) == {0, 1}
    assert 90 < drawn.count(0) < 160, "0.5 of 0.8"
    assert {Answer((), lambda answer: True, 1, 1.0, 0.1, seed).choose(logits) for seed in range(50)} == {0}
