"""Replay buffers: who enters, who stays, and that nothing but the arguments decides."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from lifealign.core.errors import ConfigError, StoreError
from lifealign.data.tasks import Message, Row
from lifealign.training.replay import Exemplar, ReplayBuffer, update_buffer


def rows(task: str, count: int) -> list[Row]:
    return [
        Row((Message("user", f"{task} {i}?"),), f"good {i}", f"bad {i}", source=f"{task}.jsonl:{i}")
        for i in range(count)
    ]


def stream(policy: str, tasks: int, count: int, **options: object) -> ReplayBuffer:
    buffer = ReplayBuffer()
    for t in range(tasks):
        buffer = update_buffer(buffer, rows(f"t{t}", count), f"t{t}", policy=policy, **options)
    return buffer


@pytest.mark.parametrize("policy", ["reservoir", "oldest_out", "per_task_quota"])
def test_a_share_enters_while_there_is_room(policy: str) -> None:
    buffer = stream(policy, tasks=3, count=50, share=0.2, capacity=3000)
    assert Counter(e.task for e in buffer.exemplars) == {"t0": 10, "t1": 10, "t2": 10}
    assert buffer.seen == 30
    assert [e.index for e in buffer.exemplars] == list(range(30))
    assert all(e.row in rows(e.task, 50) for e in buffer.exemplars)


def test_the_share_is_random_not_the_first_rows() -> None:
    """All seeds together take every row about equally often: 400 draws of 10 of 50 give 80 +- 8 (binomial) a row."""
    taken: Counter[str] = Counter()
    for seed in range(400):
        buffer = update_buffer(ReplayBuffer(), rows("t", 50), "t", share=0.2, seed=seed)
        taken.update(e.row.prompt[0].content for e in buffer.exemplars)
    assert len(taken) == 50
    assert all(abs(n - 80) < 5 * 8 for n in taken.values())


def test_share_rounds_to_the_nearest_row_and_never_to_none() -> None:
    sizes = [len(update_buffer(ReplayBuffer(), rows("t", n), "t", share=0.2).exemplars) for n in (0, 1, 7, 8, 100)]
    assert sizes == [0, 1, 1, 2, 20]


def test_oldest_out_drops_the_oldest() -> None:
    buffer = stream("oldest_out", tasks=3, count=10, share=1.0, capacity=15)
    assert [e.index for e in buffer.exemplars] == list(range(15, 30))
    assert Counter(e.task for e in buffer.exemplars) == {"t1": 5, "t2": 10}


def test_per_task_quota_shares_equally_and_keeps_subsets() -> None:
    before = stream("per_task_quota", tasks=2, count=40, share=0.5, capacity=30)
    after = stream("per_task_quota", tasks=4, count=40, share=0.5, capacity=30)
    assert Counter(e.task for e in before.exemplars) == {"t0": 15, "t1": 15}
    assert Counter(e.task for e in after.exemplars) == {f"t{t}": 7 for t in range(4)}
    assert {e for e in after.exemplars if e.task in ("t0", "t1")} <= set(before.exemplars)


def test_per_task_quota_refuses_a_quota_of_zero() -> None:
    buffer = ReplayBuffer(tuple(Exemplar(rows(f"t{i}", 1)[0], f"t{i}", i) for i in range(3)), seen=3)
    with pytest.raises(ConfigError, match="replay_capacity 3 is less than one row for each of 4 tasks"):
        update_buffer(buffer, rows("t3", 5), "t3", policy="per_task_quota", capacity=3)


def test_reservoir_keeps_every_candidate_with_equal_probability() -> None:
    """Capacity 10, 40 candidates of 4 tasks: each is kept in 1/4 of 600 lives: 150 +- 10.6 (binomial)."""
    kept: Counter[int] = Counter()
    for seed in range(600):
        buffer = stream("reservoir", tasks=4, count=10, share=1.0, capacity=10, seed=seed)
        assert len(buffer.exemplars) == 10
        kept.update(e.index for e in buffer.exemplars)
    assert buffer.seen == 40
    assert sorted(kept) == list(range(40))
    # chi-square of 40 cells with 39 degrees of freedom: 1e-6 is exceeded beyond 96
    assert sum((n - 150) ** 2 / (150 * 0.75) for n in kept.values()) < 96


def test_reservoir_keeps_all_tasks_in() -> None:
    buffer = stream("reservoir", tasks=6, count=300, share=0.2, capacity=120)
    counts = Counter(e.task for e in buffer.exemplars)
    assert len(buffer.exemplars) == 120
    assert len(counts) == 6 and min(counts.values()) >= 8  # 20 expected, standard deviation under 4


@pytest.mark.parametrize("policy", ["reservoir", "oldest_out", "per_task_quota"])
def test_only_the_arguments_decide(policy: str) -> None:
    random.seed(1)
    torch.manual_seed(1)
    state = random.getstate(), torch.get_rng_state()
    first = stream(policy, tasks=4, count=20, share=0.5, capacity=16, seed=7)
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])
    random.seed(2)
    assert stream(policy, tasks=4, count=20, share=0.5, capacity=16, seed=7) == first
    assert stream(policy, tasks=4, count=20, share=0.5, capacity=16, seed=8) != first


def test_the_order_of_the_rows_does_not_matter_and_the_task_name_does() -> None:
    given = rows("t", 30)
    first = update_buffer(ReplayBuffer(), given, "t", seed=3)
    assert update_buffer(ReplayBuffer(), given[::-1], "t", seed=3) == first
    other = update_buffer(ReplayBuffer(), given, "u", seed=3)
    assert {e.row for e in other.exemplars} != {e.row for e in first.exemplars}


def test_equal_rows_enter_once() -> None:
    given = rows("t", 5)
    twice = given + [replace(row, source="elsewhere:1") for row in given]
    buffer = update_buffer(ReplayBuffer(), twice, "t", share=1.0)
    assert sorted(e.row.source for e in buffer.exemplars) == [f"t.jsonl:{i}" for i in range(5)]
    again = update_buffer(buffer, [*given, *rows("u", 2)], "u", share=1.0)
    assert len(again.exemplars) == 7 and again.seen == 7
    assert buffer.seen == 5  # the old buffer is as it was


def test_a_lowered_capacity_is_kept_to() -> None:
    buffer = stream("reservoir", tasks=2, count=20, share=1.0, capacity=40)
    smaller = update_buffer(buffer, rows("new", 10), "new", share=1.0, capacity=12)
    assert len(smaller.exemplars) == 12
    assert len({e.index for e in smaller.exemplars}) == 12


@pytest.mark.parametrize("policy", ["reservoir", "oldest_out", "per_task_quota"])
def test_a_buffer_read_back_goes_on_as_if_never_written(policy: str) -> None:
    buffer = stream(policy, tasks=3, count=20, share=0.5, capacity=12)
    odd = Row((Message("system", "s"), Message("user", 'line\u2028break "quoted"\n')), "gr\u00fcn", "\U0001f600 \udc00")
    buffer = update_buffer(buffer, [odd], "odd", policy=policy, share=1.0, capacity=13)
    assert odd in [e.row for e in buffer.exemplars]
    read = ReplayBuffer.from_lines(json.loads(json.dumps(buffer.to_lines())))
    assert read == buffer
    assert [e.row.source for e in read.exemplars] == [e.row.source for e in buffer.exemplars]
    options = {"policy": policy, "share": 0.5, "capacity": 13}
    assert update_buffer(read, rows("t9", 20), "t9", **options) == update_buffer(
        buffer, rows("t9", 20), "t9", **options
    )


def test_unreadable_lines_are_named() -> None:
    lines = [*stream("reservoir", tasks=1, count=5).to_lines(), {"task": "t"}]
    with pytest.raises(StoreError, match=r"memory/replay\.jsonl:3: index: missing"):
        ReplayBuffer.from_lines(lines, "memory/replay.jsonl")
    with pytest.raises(StoreError, match=":1:"):
        ReplayBuffer.from_lines([{}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": -0.1}, "replay_share"),
        ({"share": 1.1}, "replay_share"),
        ({"capacity": 0}, "replay_capacity"),
        ({"policy": "newest"}, "'newest'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        update_buffer(ReplayBuffer(), rows("t", 5), "t", **options)


def test_a_share_of_zero_keeps_what_is_there() -> None:
    before = update_buffer(ReplayBuffer(), rows("t", 5), "t", share=0.4)
    assert len(before.exemplars) == 2
    assert update_buffer(before, rows("u", 5), "u", share=0) == before
