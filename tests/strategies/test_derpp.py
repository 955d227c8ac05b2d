"""DER++: stored log-probs and rows of earlier tasks, by hand and in a run on a tiny model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from lifealign.core.errors import ConfigError
from lifealign.data.tasks import Row
from lifealign.memory.history import StoreHistory
from lifealign.model.batch import PairLogps
from lifealign.model.logps import token_logps
from lifealign.model.packing import pack_pairs
from lifealign.store.layout import STATE
from lifealign.strategies.derpp import draw, matching_loss
from support.golden import golden_numbers
from support.lives import TASKS, assert_same, learn, start
from support.regularisation import Build, at, begun, learnt, moved, too_long
from support.rows import make_task

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def golden() -> dict[str, Any]:
    values: dict[str, Any] = golden_numbers("strategies")
    return values


def test_derpp_golden(golden: dict[str, Any]) -> None:
    g = golden["derpp_mse"]
    found = matching_loss(torch.tensor([g["now"]]), torch.tensor([g["stored"]]))
    assert found.shape == (1,) and float(found) == pytest.approx(g["mse"], abs=1e-6)


DERPP = ("strategy.name=derpp", "strategy.replay_share=0.5")


def test_derpp_draws_twice_as_many_rows_as_the_task_has(config: Build) -> None:
    """Three rows of the first task are kept; each draw of six takes every one twice, in orders of its own."""
    session, store, dataset = begun(config, *DERPP)
    kept = [e.row for e in StoreHistory(store).replay.exemplars]
    assert len(kept) == 3 and dataset.origin == ("stars",) * 6 + ("bread",) * 12
    assert dataset.rows[:6] == TASKS[1].train
    for part in (dataset.rows[6:9], dataset.rows[9:12], dataset.rows[12:15], dataset.rows[15:]):
        assert {row.digest for row in part} == {row.digest for row in kept}
    assert dataset.rows[6:12] != dataset.rows[12:]
    assert session.strategy.training_set(TASKS[1], StoreHistory(store)) == dataset
    exemplars = StoreHistory(store).replay.exemplars
    assert draw(exemplars, 2, 0, "stars", "match") == draw(exemplars, 6, 0, "stars", "match")[:2]
    assert any(
        draw(exemplars, 6, seed, "stars", "match") != draw(exemplars, 6, 0, "stars", "match") for seed in range(1, 5)
    )
    assert draw((), 6, 0, "stars", "match") == []


def test_derpp_stores_log_probs_once_at_the_end_of_a_rows_task(config: Build) -> None:
    session, store = learnt(config, *DERPP, "strategy.replay_capacity=7", tasks=3)
    known: dict[int, list[float]] = {}
    for k in (1, 2, 3):
        session.load(store, store.lineage()[k])
        buffer = store.load_lines(store.lineage()[k], "replay.jsonl")
        state = at(store, k, STATE)
        assert (
            state["index"].tolist() == [line["index"] for line in buffer[1:]] and state["logps"].dtype == torch.float32
        )
        fresh = [line["index"] for line in buffer[1:] if line["index"] not in known]
        assert {line["task"] for line in buffer[1:] if line["index"] in fresh} <= {TASKS[k - 1].name}
        by_digest = {row.digest: row for task in TASKS for row in task.train}
        for line, logps in zip(buffer[1:], state["logps"].tolist(), strict=True):
            row = by_digest[Row.from_json(line).digest]
            (pair,), _ = session.encoder.encode([row])
            if line["index"] in fresh:
                with torch.no_grad():
                    plain = token_logps(session.model, pack_pairs([pair], [0], False)).sums().tolist()
                assert logps == pytest.approx(plain, abs=1e-3)
                known[line["index"]] = logps
            else:
                assert logps == known[line["index"]]  # not what the model says of them by now
        assert fresh
    assert len(at(store, 3, STATE)["index"]) == 7


def test_derpp_loss_of_each_part_by_hand(config: Build) -> None:
    session, store, dataset = begun(config, *DERPP, "strategy.logps_weight=0.3", "strategy.buffer_weight=0.5")
    state = at(store, 1, STATE)
    stored = {
        e.row.digest: logps
        for e, logps in zip(StoreHistory(store).replay.exemplars, state["logps"].tolist(), strict=True)
    }
    moved(session)
    pairs, _ = session.encoder.encode(dataset.rows)
    index = [4, 7, 13]  # of the task, matched, trained on again
    pack = pack_pairs(pairs, index, True)
    sums = token_logps(session.model, pack).pairs()
    reference = PairLogps(sums.chosen.detach() - 3, sums.rejected.detach() - 1)  # r = 0.1 (3 - 1)
    objective = session.strategy.objective(sums, reference, pack.batch.chosen_lengths_B, pack.batch.rejected_lengths_B)
    loss = session.strategy.loss(pack.batch, sums, reference, objective).tolist()
    dpo = math.log(1 + math.exp(-0.2))
    matched = pairs[7]
    now = [
        float(sums.chosen[1].detach()) / len(matched.chosen),
        float(sums.rejected[1].detach()) / len(matched.rejected),
    ]
    then = [s / n for s, n in zip(stored[matched.digest], (len(matched.chosen), len(matched.rejected)), strict=True)]
    mse = ((now[0] - then[0]) ** 2 + (now[1] - then[1]) ** 2) / 2
    assert mse > 1e-4
    assert loss == pytest.approx([dpo, 0.3 * mse, 0.5 * dpo], rel=1e-4)
    # SFT: NLL, the chosen answer's square alone, half the NLL.
    chosen = pack_pairs(pairs, index, True, chosen_only=True)
    token_T = token_logps(session.model, chosen).token_T.detach()
    parts = torch.split(token_T, [len(pairs[i].chosen) for i in index])
    found = torch.split(session.strategy.sft_loss(replace(chosen.batch, token_T=token_T)), [len(p) for p in parts])
    torch.testing.assert_close(found[0], -parts[0])
    assert found[1].tolist() == pytest.approx([0.3 * (now[0] - then[0]) ** 2] * len(parts[1]), rel=1e-3)
    torch.testing.assert_close(found[2], -0.5 * parts[2])


def test_derpp_holds_the_log_probs_of_old_rows(config: Build, tmp_path: Any) -> None:
    """Matching alone (b = 0): with a large weight the kept rows' mean log-probs end nearer to the stored ones."""
    ends = []
    for a in (0, 100):
        session, store = learnt(
            config,
            *DERPP,
            f"memory={tmp_path / str(a)}",
            "strategy.buffer_weight=0",
            f"strategy.logps_weight={a}",
            "train.epochs=4",
            "sft.epochs=1",
        )
        session.load(store, store.head)
        old = [e for e in StoreHistory(store).replay.exemplars if e.task == "bread"]
        then = dict(zip(*(at(store, 1, STATE)[k].tolist() for k in ("index", "logps")), strict=True))
        pairs, _ = session.encoder.encode([e.row for e in old])
        lengths = torch.tensor([[len(p.chosen), len(p.rejected)] for p in pairs])
        drift = (session.view.pair_logps([e.row for e in old]) - torch.tensor([then[e.index] for e in old])) / lengths
        ends.append(float((drift**2).mean()))
    assert ends[1] < 0.3 * ends[0]


def test_derpp_first_task_is_sequential(config: Build, tmp_path: Any) -> None:
    settings = ("sft.epochs=1", "train.epochs=2")
    _, ours = learnt(config, *DERPP, *settings, tasks=1)
    _, plain = learnt(config, "strategy.name=sequential", *settings, f"memory={tmp_path / 'plain'}", tasks=1)
    assert_same(at(ours, 1), at(plain, 1))


def test_derpp_rows_that_cannot_be_used_have_no_log_probs_and_are_not_drawn(config: Build) -> None:
    task = replace(make_task("bread", train=3), train=(too_long("bread"), *make_task("bread", train=3).train))
    session, store = start(config("strategy.name=derpp", "strategy.replay_share=1", "data.long_prompts=drop"))
    store = learn(session, store, task)
    logps = at(store, 1, STATE)["logps"]
    assert logps.shape == (4, 2) and int(logps.isnan().all(-1).sum()) == 1
    dataset = session.strategy.training_set(TASKS[1], StoreHistory(store))
    assert len(dataset.rows) == 18 and too_long("bread").digest not in {row.digest for row in dataset.rows}
    session.strategy.retain(replace(TASKS[1], train=(too_long("stars"),)), StoreHistory(store))  # none to compute
    assert int(session.strategy.state_dict()["logps"].isnan().all(-1).sum()) == 2


@pytest.mark.parametrize("name", ["lwf", "derpp"])
def test_focal_weights_are_not_for_losses_with_terms_of_their_own(name: str, config: Build) -> None:
    with pytest.raises(ConfigError, match=r"normalise_weights would divide this strategy's own terms"):
        config(f"strategy.name={name}", "strategy.loss=fpo", "strategy.normalise_weights=true")
    with pytest.raises(ConfigError, match=rf"skip_weight_below=0.1 skips pairs .*strategy {name}"):
        config(f"strategy.name={name}", "strategy.loss=fpo", "train.skip_weight_below=0.1")
    config("strategy.name=ewc", "strategy.loss=fpo", "train.skip_weight_below=0.1", "strategy.normalise_weights=true")
