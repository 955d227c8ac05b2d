"""L2P: selection and pull by hand, and a run on a tiny model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lifealign.core.errors import ConfigError
from lifealign.memory.api import Memory
from lifealign.store.layout import ADAPTER, STATE
from lifealign.strategies.l2p import key_pull, select_prompts
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


def test_l2p_first_step_pulls_the_selected_keys_and_trains_their_prompts(config: Build) -> None:
    session, store = start(config(*L2P, "train.pairs_per_step=6", "train.warmup=0"))
    before = {k: v.clone() for k, v in session.initial.items()}
    assert {k: tuple(v.shape) for k, v in before.items()} == {TABLE: (12, 32), KEYS: (6, 32)}
    pairs, _ = session.encoder.encode(BREAD.train)
    query = session.view.features([p.prompt for p in pairs])
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
    assert 2 <= len(used) < 6
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
    assert not store.load_tensors(store.head, STATE)


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
    strategy._queries.clear()
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
