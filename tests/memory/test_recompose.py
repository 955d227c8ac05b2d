"""Signatures, composing and forecasting on memories of a random two-layer model."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from lifealign.consolidation import composing as compose
from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, DataError, StoreError, TrainingError
from lifealign.data.tasks import Row
from lifealign.memory import learning as pipeline
from lifealign.memory import recompose, signatures
from lifealign.memory.api import Memory, run_stream
from lifealign.memory.composer import Composer
from lifealign.memory.routing import stored_signatures
from lifealign.model.adapters import restore, snapshot, trainable
from lifealign.store.layout import ADAPTER, SIGNATURE
from lifealign.store.reader import MemoryReader
from lifealign.training.schedule import row_order
from support.paths import ROOT
from support.rows import make_task

BREAD, STARS, MUSIC = (make_task(name, train=8, test=4, validation=2) for name in ("bread", "stars", "music"))
PROMPTS = ["bread question 40?", "stars question 41?", "music question 42?", "stars question 43?"]
IDS = torch.arange(3, 43)[None]
V1 = ROOT / "tests" / "store" / "compat" / "v1" / "memory"
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def build(config: Build, tmp_path: Path) -> Callable[..., Memory]:
    def make(*settings: str) -> Memory:
        memory = Memory.create(
            tmp_path / "memory", config("train.learning_rate=0.03", "evaluate.before=false", *settings)
        )
        for task in (BREAD, STARS, MUSIC):
            memory.learn(task)
        return memory

    return make


@pytest.fixture
def memory(build: Callable[..., Memory]) -> Memory:
    return build("train.epochs=3")


def points_of(memory: Memory) -> list[dict[str, Tensor]]:
    return [memory._store.load_tensors(m, ADAPTER) for m in memory._store.lineage()]


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_each_commit_keeps_the_signature_of_its_own_training_prompts(memory: Memory, monkeypatch: Any) -> None:
    found = stored_signatures(memory._store, memory._store.head)
    assert list(found) == ["bread", "stars", "music"]
    session = memory._session(memory.config, None)
    for task in (BREAD, MUSIC):  # the default strategy also trains on replayed rows: they are no part of it
        features = session.view.features([session.encoder.prompt_ids(r.prompt) for r in task.train], 0.5)
        own = found[task.name]
        assert own is not None and own.count == 8 and own.depth == 0.5 and own.checks_MD.shape == (2, features.shape[1])
        torch.testing.assert_close(own.centroid_D.float(), features.mean(0), atol=1e-5, rtol=0)
        torch.testing.assert_close(own.variance_D.float(), features.var(0, correction=0), atol=1e-5, rtol=0)
    assert list(stored_signatures(memory._store, memory._store.find("stars"))) == ["bread", "stars"]
    assert memory.verify() == []
    monkeypatch.setattr(signatures, "PROMPTS", 3)
    memory.learn(make_task("late", train=8))
    late = stored_signatures(memory._store, memory._store.head)["late"]
    assert late is not None and late.count == 3


def test_joint_training_keeps_one_signature_a_task(config: Build, tmp_path: Path) -> None:
    stream = "stream={planted: {train_rows: 3, validation_rows: 1, test_rows: 1}, order: [1, 2]}"
    memory = run_stream(config(stream, "strategy.name=joint", "evaluate.before=false", "data.max_length=400"))
    found = stored_signatures(memory._store, memory._store.head)
    assert {name: s and s.count for name, s in found.items()} == {"data-json": 3, "how-to-steps": 3}


def test_new_rows_are_ranked_by_likeness_and_nothing_is_written(memory: Memory) -> None:
    before = files(memory.path)
    related = memory.related(make_task("stars", train=8, test=4).test)
    assert files(memory.path) == before
    assert related.tasks[0].task == "stars" and related.rows == 4 and related.steps == 4 and related.notes == ()
    assert related.tasks[0].nearest is not None and related.tasks[0].nearest >= 0.75
    assert sum(t.nearest or 0 for t in related.tasks) == pytest.approx(1)
    gaps = [t.distance for t in related.tasks]
    assert all(g is not None and g > 0 for g in gaps) and gaps == sorted(gaps)  # type: ignore[type-var]
    assert all(t.overlap is not None and -1 <= t.overlap <= 1 for t in related.tasks)
    json.dumps(related.to_json())
    *table, likest, forecast = related.lines()[2:]
    assert [line.split()[0] for line in table] == [t.task for t in related.tasks]
    assert likest.startswith("likest: stars, the nearest task of ") and "do not rely on it" in forecast
    # The model is as it was: the forecast's steps were taken back.
    points = points_of(memory)
    session = memory._session(memory.config, None)
    assert all(torch.equal(v, points[3][k]) for k, v in snapshot(session.model).items())


def test_forecast_of_one_step_is_the_update_that_learning_makes(config: Build, tmp_path: Path) -> None:
    """All 8 rows in one step at the peak rate: learning STARS does exactly what the forecast does."""
    whole = config("strategy.name=sequential", "train.pairs_per_step=8", "train.warmup=0", "evaluate.before=false")
    memory = Memory.create(tmp_path / "m", whole)
    memory.learn(BREAD)
    memory.learn(STARS)
    start, bread, stars = points_of(memory)
    wanted = compose.overlap((bread, stars), (start, bread))
    (found,) = memory.related(STARS.train, steps=1, as_of="bread").tasks
    assert wanted is not None and abs(wanted) > 0.01 and found.overlap == pytest.approx(wanted, abs=1e-4)


def test_forecast_tells_going_on_from_going_back(config: Build, tmp_path: Path) -> None:
    """The same rows again push the same way; with the answers swapped they push back."""
    memory = Memory.create(tmp_path / "m", config("strategy.name=sequential", "evaluate.before=false"))
    memory.learn(BREAD)
    swapped = [Row(r.prompt, r.rejected, r.chosen, r.source) for r in BREAD.train]
    again, back = (memory.related(rows, steps=2).tasks[0].overlap for rows in (BREAD.train, swapped))
    assert again is not None and back is not None and again > 0.1 and back < -0.1
    assert memory.related(BREAD.train, steps=0).tasks[0].overlap is None


@pytest.mark.parametrize(
    "settings",
    [
        ["lora.dropout=0.3", "train.weight_decay=0.1", "train.tokens_per_pack=60"],
        ["strategy.name=sequential", "strategy.loss=fpo", "strategy.normalise_weights=true"],
        ["strategy.name=sequential", "strategy.loss=fpo", "train.skip_weight_below=0.26", "train.shared_prefix=never"],
        ["strategy.name=copr", "train.max_grad_norm=0.01"],
    ],
)
def test_forecast_takes_the_steps_of_a_loop_by_hand_bit_for_bit(
    settings: list[str], build: Callable[..., Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven steps of 4 on 5 rows: windows cross epochs, at a constant rate, without dropout and the strategy's own terms."""
    memory = build(*settings)
    rows = make_task("late", train=5).train
    session = memory._session(memory.config, None)
    session.load(memory._store, memory._store.head)
    config, parameters = session.config.train, trainable(session.model)
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    order = [i for epoch in range(6) for i in row_order(session.config.seed, "related", "forecast", epoch, 5)]
    for index in range(7):
        for loss in session.view.losses_on([rows[i] for i in order[4 * index : 4 * index + 4]]):
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    wanted = snapshot(session.model)

    found: list[dict[str, Tensor]] = []
    monkeypatch.setattr(compose, "overlap", lambda one, other: found.append(one[1]) or 0.0)
    related = memory.related(rows, steps=7)
    assert related.steps == 7 and len(found) == 3
    assert all(torch.equal(found[0][name], wanted[name]) for name in wanted)
    assert max(float((wanted[name] - points_of(memory)[3][name]).abs().max()) for name in wanted) > 1e-3


def test_forecast_that_is_not_finite_leaves_the_session_as_it_was(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = memory._session(memory.config, None)
    with monkeypatch.context() as patched:
        patched.setattr(
            recompose.Strategy, "loss", lambda self, batch, policy, reference, objective: policy.chosen * math.nan
        )
        with pytest.raises(TrainingError, match=r"task 'forecast': the loss \(nan\).*at step 1 of stage preference"):
            memory.related(STARS.test)
    stored = points_of(memory)[3]
    assert all(torch.equal(value, stored[name]) for name, value in snapshot(session.model).items())
    assert all(t.overlap is not None for t in memory.related(STARS.test).tasks)


def test_forecast_is_not_tracked(build: Callable[..., Memory], monkeypatch: pytest.MonkeyPatch) -> None:
    """The trackers of the memory's training are open in the session that forecasts."""
    memory = build("train.trackers=[tensorboard]")
    session = memory._session(memory.config, None)
    assert session.accelerator.trackers
    monkeypatch.setattr(session.accelerator, "log", lambda *_, **__: pytest.fail("tracked"))
    assert all(t.overlap is not None for t in memory.related(STARS.test).tasks)


def test_no_forecast_where_tasks_are_no_sum_of_updates(build: Callable[..., Memory]) -> None:
    memory = build("strategy.name=merge")
    related = memory.related(STARS.test)
    assert related.steps == 0 and all(t.overlap is None and t.distance is not None for t in related.tasks)
    assert any(
        "no forecast: strategy merge does not keep the sum of its tasks' updates" in note for note in related.notes
    )


def test_what_cannot_be_related(config: Build, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "m", config())
    with pytest.raises(DataError, match=r"m: no task learnt up to 0000-initial to compare with"):
        memory.related(STARS.test)
    with pytest.raises(ConfigError, match=r"steps=-1: allowed: 0 <= steps"):
        memory.related(STARS.test, steps=-1)
    with pytest.raises(DataError, match=r"no usable row"):
        memory.related([{"prompt": "a", "chosen": "b", "rejected": "b"}])


def test_a_memory_from_before_signatures_opens_and_says_what_is_missing(
    build: Callable[..., Memory], monkeypatch: Any
) -> None:
    old = MemoryReader.open(V1)
    assert set(stored_signatures(old, old.head).values()) == {None}
    monkeypatch.setattr(pipeline, "task_signatures", lambda *_: {})
    memory = build()
    related = memory.related(STARS.test, steps=1)
    assert [(t.task, t.distance, t.nearest) for t in related.tasks] == [
        (n, None, None) for n in ("bread", "stars", "music")
    ]
    assert all(t.overlap is not None for t in related.tasks)
    assert related.notes[0] == "bread: no signature (learnt before signatures were kept)" and len(related.notes) == 3
    with pytest.raises(
        StoreError, match=r"no signature for bread, stars, music .*cannot be routed; give weights instead"
    ):
        memory.generate(PROMPTS, route=True)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits  # type: ignore[no-any-return]


def test_composed_adapter_is_written_for_stock_peft(memory: Memory, tmp_path: Path, tiny_dir: Path) -> None:
    """bread * 1.5, stars withdrawn: A and B are those sums, and peft alone gives their logits."""
    p = points_of(memory)
    before = files(memory.path)
    made = memory.compose({"bread": 1.5, "stars": 0}, out=tmp_path / "adapter")
    assert files(memory.path) == before
    assert made.weights == {"bread": 1.5, "stars": 0.0, "music": 1.0} and made.space == "factors"
    assert made.out == tmp_path / "adapter" and made.scores is None and made.change > 0
    wanted = {
        k: (p[0][k].double() + 1.5 * (p[1][k].double() - p[0][k]) + (p[3][k].double() - p[2][k])).float() for k in p[0]
    }
    stock = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_dir), str(tmp_path / "adapter"))
    session = memory._session(memory.config, None)
    restore(session.model, wanted)
    torch.testing.assert_close(logits(stock), logits(session.model), atol=1e-5, rtol=0)
    session.load(memory._store, memory._store.head)
    assert float((logits(stock) - logits(session.model)).abs().max()) > 1e-2
    with pytest.raises(ConfigError, match=r"adapter: not an empty directory"):
        memory.compose({"bread": 0}, out=tmp_path / "adapter")


def test_composing_scores_stored_and_composed_and_writes_nothing(memory: Memory) -> None:
    before = files(memory.path)
    made = memory.compose({"bread": 0, "stars": 0, "music": 0})
    assert files(memory.path) == before and made.scores is not None
    for task in ("bread", "stars", "music"):  # all withdrawn: the base model, so every margin is 0
        assert made.scores[task]["margin"]["composed"] == pytest.approx(0, abs=1e-6)
        assert made.scores[task]["accuracy"]["composed"] == 50
        stored = memory.evaluate([task]).tasks[task]
        assert made.scores[task]["margin"]["stored"] == pytest.approx(stored["margin"]["value"], abs=1e-6)
    assert made.scores["music"]["margin"]["stored"] != 0
    assert "bread=0, stars=0, music=0" in made.lines()[0] and len(made.lines()) == 5
    early = memory.compose({"bread": 0}, as_of="bread", split="validation")
    assert early.after == "0001-bread" and list(early.scores or ()) == ["bread"]


def test_delta_w_on_request_and_by_default_where_consolidated_so(memory: Memory, build: Any, tmp_path: Path) -> None:
    made = memory.compose({"bread": 0.5}, space="delta_w", out=tmp_path / "a")
    assert made.space == "delta_w" and made.truncation_error is not None and 0 < made.truncation_error < 1
    assert "truncation error" in made.lines()[1]


def test_a_memory_of_delta_w_is_composed_in_delta_w_only(build: Callable[..., Memory]) -> None:
    memory = build("strategy.space=delta_w")
    assert Composer(memory._store, memory._store.head).space == "delta_w"
    with pytest.raises(ConfigError, match=r"space factors: this memory was consolidated in delta_w.*allowed: delta_w"):
        memory.compose({"bread": 0}, space="factors")


@pytest.mark.parametrize(
    ("weights", "options", "error", "message"),
    [
        ({"musik": 0}, {}, StoreError, r"no task 'musik' up to 0003-music; known: bread, stars, music"),
        ({"stars": 0}, {"as_of": "bread"}, StoreError, r"no task 'stars' up to 0001-bread; known: bread$"),
        ({"bread": math.nan}, {}, ConfigError, r"weight bread=nan is not finite"),
        ({"bread": 0}, {"space": "logits"}, ConfigError, r"space 'logits': allowed: factors, delta_w"),
        ({"bread": 0}, {"split": "dev"}, ConfigError, r"evaluate.split: allowed: 'test' or 'validation'"),
    ],
)
def test_what_cannot_be_composed(weights: Any, options: Any, error: Any, message: str, build: Any) -> None:
    with pytest.raises(error, match=message):
        build("train.epochs=0").compose(weights, **options)


@pytest.mark.parametrize("strategy", ["joint", "merge"])
def test_strategies_whose_memory_is_no_sum_are_refused(strategy: str, build: Callable[..., Memory]) -> None:
    memory = build(f"strategy.name={strategy}", "train.epochs=0")
    message = (
        rf"strategy {strategy} does not keep the sum of its tasks' updates.*strategies that do: .*lifealign.*sequential"
    )
    with pytest.raises(ConfigError, match=message):
        memory.compose({"bread": 0})
    with pytest.raises(ConfigError, match=message):
        memory.generate(PROMPTS, route=True)


def test_answers_with_other_weights(memory: Memory) -> None:
    plain = memory.generate(PROMPTS, max_new_tokens=8)
    assert memory.generate(PROMPTS, weights={"bread": 1.0}, max_new_tokens=8) == plain
    base = memory.generate(PROMPTS, as_of="initial", max_new_tokens=8)
    nothing = dict.fromkeys(("bread", "stars", "music"), 0.0)
    assert memory.generate(PROMPTS, weights=nothing, max_new_tokens=8) == base != plain
    assert memory.generate(PROMPTS, max_new_tokens=8) == plain  # and it leaves nothing behind


def test_weights_and_routing_at_once_are_refused(build: Callable[..., Memory]) -> None:
    with pytest.raises(ConfigError, match="weights and route both set"):
        build("train.epochs=0").generate(PROMPTS, route=True, weights={"bread": 0})


def test_signature_file_is_named_in_the_manifest(memory: Memory) -> None:
    names = memory._store.tensor_names(memory._store.head, SIGNATURE)
    assert names == [f"music.{part}" for part in ("centroid", "checks", "count", "depth", "directions", "variance")]


# --- the benchmark ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench() -> Any:
    path = ROOT / "benchmarks" / "recompose.py"
    spec = importlib.util.spec_from_file_location("bench_recompose", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rank_correlation_by_hand(bench: Any) -> None:
    """Ranks (0, 1, 2, 3) and (0, 2, 1, 3): 1 - 6 * 2 / (4 * 15) = 0.8. A tie shares rank 1.5."""
    assert bench.rank_correlation([1, 5, 6, 9], [10, 30, 20, 90]) == pytest.approx(0.8)
    assert bench.rank_correlation([1, 2, math.nan, 3], [3, 2, 7, 1]) == pytest.approx(-1)
    # Ranks (0, 1.5, 1.5, 3) and (0, 1, 2, 3): covariance 4.5, variances 4.5 and 5.
    assert bench.rank_correlation([1, 4, 4, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert math.isnan(bench.rank_correlation([1, 1, 1], [1, 2, 3])) and math.isnan(
        bench.rank_correlation([1, 2], [1, 2])
    )


def test_benchmark_measures_a_finished_memory(bench: Any, config: Build, tmp_path: Path, capsys: Any) -> None:
    stream = "stream={planted: {train_rows: 4, validation_rows: 1, test_rows: 3}, order: [1, 2, 5]}"
    memory = run_stream(config(stream, "evaluate.before=false", "data.max_length=400", "train.epochs=2"))
    before = files(memory.path)
    bench.main([str(memory.path), "--out", str(tmp_path / "r.json"), "--steps", "1"])
    assert files(memory.path) == before
    result = json.loads((tmp_path / "r.json").read_text())
    names = ["data-json", "how-to-steps", "private-data"]
    assert list(result["withdrawn"]) == names and "withdrawn: own accuracy" in capsys.readouterr().out
    last = memory.scores("margin")[2]
    for name, value in zip(names, last, strict=True):
        assert result["plain"][name]["margin"] == pytest.approx(value, abs=1e-6)
        own = result["withdrawn"][name]["own"]["margin"]
        assert own["stored"] == pytest.approx(value, abs=1e-6) and own["composed"] != own["stored"]
        assert sum(result["routed"][name]["shares"].values()) == pytest.approx(1)
        assert math.isfinite(result["routed"][name]["scores"]["margin"])
    R = memory.scores("nll")
    pairs = result["forecast"]["pairs"]
    assert [(p["new"], p["task"]) for p in pairs] == [(names[1], names[0]), (names[2], names[0]), (names[2], names[1])]
    assert pairs[2]["lost"]["nll"] == pytest.approx(R[2][1] - R[1][1])
