"""L2P: selection and pull by hand, and a run on a tiny model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import lifealign.strategies.l2p as method
from lifealign.core.errors import ConfigError
from lifealign.memory.api import Memory
from lifealign.memory.history import StoreHistory
from lifealign.store.layout import ADAPTER, STATE
from lifealign.strategies.l2p import key_pull, query_space, select_prompts
from lifealign.training.strategy import Strategy
from support.lives import learn, start
from support.prompts import BREAD, L2P, MUSIC, Build, dpo, steps

TABLE, KEYS = "model.embed_tokens.table", "prompt_keys"
pytestmark = pytest.mark.usefixtures("one_thread")


def test_selection_and_pull_by_hand() -> None:
    """Cosines of (1, 2) to the keys: 1/sqrt 5, 2/sqrt 5, -1/sqrt 5, 11 / (5 sqrt 5)."""
    keys = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [3, 4]], requires_grad=True)
    query = torch.tensor([[1.0, 2.0], [-5.0, 0.0]])
    chosen = select_prompts(query, keys, 2)
    assert chosen.tolist() == [[3, 1], [2, 1]]
    pull = key_pull(query, keys[chosen])
    torch.testing.assert_close(pull, torch.tensor([(11 / 5 + 2) / math.sqrt(5), 1.0]))
    pull[0].backward()
    # d cos / d k = (q/|q| - cos k/|k|) / |k|; of (0, 1): (1/sqrt 5, 0); of (3, 4), |k| = 5, by the same formula.
    third = (torch.tensor([1.0, 2.0]) / math.sqrt(5) - 11 / (5 * math.sqrt(5)) * torch.tensor([0.6, 0.8])) / 5
    expected = torch.stack([torch.zeros(2), torch.tensor([1 / math.sqrt(5), 0]), torch.zeros(2), third])
    torch.testing.assert_close(keys.grad, expected)


def test_the_space_of_queries_by_hand() -> None:
    """Features 1 and 3: mean 2, deviation 1. One that never varies gets 1% of the mean deviation 1/2; one row alone gets 1."""
    mean, scale = query_space(torch.tensor([[1.0, 10.0], [3.0, 10.0]]))
    assert mean.tolist() == [2.0, 10.0] and scale.tolist() == [1.0, pytest.approx(0.005)]
    mean, scale = query_space(torch.tensor([[1.0, 10.0]]))
    assert (mean.tolist(), scale.tolist()) == ([1.0, 10.0], [1.0, 1.0])


def test_queries_that_all_point_one_way_choose_apart_once_they_are_centred() -> None:
    """As the mean hidden states of a trained model do, and those of the tiny one do not."""
    generator = torch.Generator().manual_seed(0)
    features = 60 * torch.randn(64, generator=generator) + torch.randn(24, 64, generator=generator)
    keys = torch.randn(10, 64, generator=generator)
    raw = {tuple(row) for row in select_prompts(features, keys, 4).sort(-1).values.tolist()}
    mean, scale = query_space(features)
    own = {tuple(row) for row in select_prompts((features - mean) / scale, keys, 4).sort(-1).values.tolist()}
    assert len(raw) <= 2 and len(own) > 12
    assert len({i for row in own for i in row}) == 10


def test_l2p_first_step_pulls_the_selected_keys_and_trains_their_prompts(config: Build) -> None:
    session, store = start(config(*L2P, "train.pairs_per_step=6", "train.warmup=0"))
    before = {k: v.clone() for k, v in session.initial.items()}
    assert {k: tuple(v.shape) for k, v in before.items()} == {TABLE: (12, 32), KEYS: (6, 32)}
    pairs, _ = session.encoder.encode(BREAD.train)
    features = session.view.features([p.prompt for p in pairs])
    session.strategy.begin_task(session.model, BREAD, StoreHistory(store))
    space = query_space(features)
    query = (features - space[0]) / space[1]
    cosines = F.cosine_similarity(query[:, None], before[KEYS][None], dim=-1)
    best = cosines.topk(2, dim=-1)
    prefixes = session.strategy.prefix([p.prompt for p in pairs])
    assert prefixes == [tuple(300 + 2 * i + j for i in row for j in (0, 1)) for row in best.indices.tolist()]
    expected = dpo(session, BREAD, session.view.pair_logps(BREAD.train)) - best.values.sum(-1)
    store = learn(session, store, BREAD)
    (line,) = steps(store, 1)
    assert line["loss"] == pytest.approx(float(expected.mean()), abs=1e-5)
    assert line["margin"] != 0  # the policy has prompts from the start, the reference has none
    after = store.load_tensors(store.head, ADAPTER)
    used = sorted(set(best.indices.flatten().tolist()))
    assert len(used) > 2
    moved = [i for i in range(6) if not torch.equal(after[KEYS][i], before[KEYS][i])]
    assert moved == used
    assert [i for i in range(12) if not torch.equal(after[TABLE][i], before[TABLE][i])] == [
        2 * i + j for i in used for j in (0, 1)
    ]
    # Adam's first step is the learning rate in every entry, against the gradient: each key turns to the queries.
    pulled = F.cosine_similarity(query[:, None], after[KEYS][None], dim=-1)
    chosen = torch.zeros_like(pulled).scatter(1, best.indices, 1.0)
    assert float((pulled * chosen).sum()) > float((cosines * chosen).sum()) + 1e-2
    assert float((after[KEYS] - before[KEYS]).abs().max()) == pytest.approx(5e-3, rel=1e-3)
    state = store.load_tensors(store.head, STATE)
    torch.testing.assert_close((state["query/mean"], state["query/scale"]), space)
    assert [i for i, count in enumerate(state["chosen"].tolist()) if count] == sorted(
        set(select_prompts(query, after[KEYS], 2).flatten().tolist())
    )
    assert int(state["chosen"].sum()) == 2 * len(pairs)


def test_entries_in_use_are_counted_over_the_life_and_the_space_stays(config: Build) -> None:
    session, store = start(config(*L2P))
    store = learn(session, store, BREAD, MUSIC)
    states = [store.load_tensors(m, STATE) for m in store.lineage()[1:]]
    assert torch.equal(states[0]["query/mean"], states[1]["query/mean"])
    told = [store.load_document(m, "diagnostics.json") for m in store.lineage()[1:]]
    for one, state in zip(told, states, strict=True):
        sign, alike = one["signs"]
        assert alike["value"] == one["same_choice"] and 1 / 6 <= one["same_choice"] <= 1
        assert sign["value"] == one["pool_entries_used"] == int((state["chosen"] > 0).sum())
        assert sign["low"] == 3 and sum(one["chosen"].values()) == 2 * 6 and -0.21 < one["query_cosine"] < 1
    assert told[1]["pool_entries_used"] >= told[0]["pool_entries_used"]


def test_a_pool_that_every_prompt_takes_whole_has_no_sign(config: Build) -> None:
    session, _ = start(config(*L2P, "strategy.pool=2"))
    assert session.strategy.signs == ()


def test_a_memory_from_before_queries_were_centred_goes_on_with_raw_ones(
    config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, store = start(config(*L2P))
    with monkeypatch.context() as before:
        before.setattr(method.L2P, "begin_task", Strategy.begin_task)
        before.setattr(method.L2P, "state_dict", Strategy.state_dict)
        store = learn(session, store, BREAD)
    assert not store.load_tensors(store.head, STATE)
    pairs, _ = session.encoder.encode(MUSIC.train)
    raw = select_prompts(
        session.view.features([p.prompt for p in pairs]), store.load_tensors(store.head, ADAPTER)[KEYS], 2
    )
    session.strategy.begin_task(session.model, MUSIC, StoreHistory(store))
    assert session.strategy.prefix([p.prompt for p in pairs]) == [
        tuple(300 + 2 * i + j for i in row for j in (0, 1)) for row in raw.tolist()
    ]
    store = learn(session, store, MUSIC)
    assert set(store.load_tensors(store.head, STATE)) == {"chosen"}


def test_without_the_pull_the_keys_stay(config: Build) -> None:
    session, store = start(config(*L2P, "strategy.key_pull=0"))
    store = learn(session, store, BREAD)
    after = store.load_tensors(store.head, ADAPTER)
    assert torch.equal(after[KEYS], session.initial[KEYS]) and not torch.equal(after[TABLE], session.initial[TABLE])


def test_a_query_does_not_depend_on_its_neighbours(config: Build) -> None:
    session, _ = start(config(*L2P))
    pairs, _ = session.encoder.encode([*BREAD.train, *MUSIC.train])
    strategy: Any = session.strategy
    together = strategy._query([p.prompt for p in pairs])
    strategy._raw.clear()
    alone = torch.cat([strategy._query([p.prompt]) for p in reversed(pairs)]).flip(0)
    assert torch.equal(alone, together)


def test_l2p_is_not_exported_and_says_why(config: Build, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "m", config(*L2P))
    memory.learn(BREAD)
    for merged in (False, True):
        with pytest.raises(ConfigError, match=r"l2p cannot be exported: its prompts depend on the input"):
            memory.export(tmp_path / f"out-{merged}", merged=merged)
    with pytest.raises(ConfigError, match=r"top_k must be at most pool \(2\), got 4"):
        config("strategy.name=l2p", "strategy.pool=2")
