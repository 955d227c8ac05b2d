"""Decoders with a memory: the rule of an earlier task, the memory's own reward, and what is kept with an answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lifealign import Asked, Memory, read_answers, write_answers
from lifealign.core.errors import ConfigError, DataError
from lifealign.data.prompts import Decoded, decoding_of
from lifealign.data.tasks import Row, turns_of
from lifealign.model.decoding import make_decoder
from support.rows import make_task


def test_a_memory_answers_by_a_decoder(config: Any, tmp_path: Any) -> None:
    made = Memory.create(
        config().memory, config("evaluate.max_new_tokens=5", "evaluate.before=false", "train.epochs=1")
    )
    made.learn(replace(make_task("one", train=4, test=2), checker="short-facts"))
    memory = Memory.open(made.path)
    with pytest.raises(DataError, match="no task 'x'; known: one"):
        memory.generate(["a"], decoder=make_decoder("hold", {"rules": ["task:x"]}))
    with pytest.raises(ConfigError, match="temperature=0 makes all 2 answers equal"):
        memory.generate(["a"], decoder=make_decoder("best-of", {"n": 2}), temperature=0)
    hold = make_decoder("hold", {"rules": ["task:one", "max_words=3"], "lookahead": 2, "beams": 1})
    (held,) = memory.generate(["how?"], decoder=hold, max_new_tokens=4)
    assert isinstance(held, Decoded) and held.decoding["rules"] == ["task:one", "max_words=3"]

    best = make_decoder("best-of", {"n": 3, "keep": True})
    (text,) = memory.generate(["how?"], decoder=best, max_new_tokens=4, seed=5)
    how = decoding_of(text)["decoding"]
    session = memory._session(memory.config, None)
    rows = [Row(tuple(turns_of("how?")), answer, "", kind="demonstration") for answer in how["responses"]]
    pairs = session.encoder.encode(rows)[0]
    policy, base = (session.view.logps(pairs, base=base, title="")[:, 0] for base in (False, True))
    assert how["rewards"] == pytest.approx((session.reward_beta * (policy - base)).tolist(), abs=1e-4)

    records = memory.answers(Asked(count=2, decoder=make_decoder("best-of", {"n": 2, "reward": "task:one"})))
    assert [r.source for r in records] == ["lifealign+bestof"] * 2 and records[0].decoding["n"] == 2
    for name in ("a.jsonl", "a.parquet"):
        write_answers(tmp_path / name, records)
        assert read_answers(tmp_path / name) == records
    plain = memory.answers(Asked(count=2))
    assert plain[0].decoding is None and "decoding" not in plain[0].to_json()
