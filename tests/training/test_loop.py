"""Invariants of the training loop."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from lifealign.core.config import LoraConfig, StrategyChoice, TrainConfig
from lifealign.core.errors import TrainingError
from lifealign.model.adapters import snapshot, trainable
from lifealign.model.encoding import Encoder
from lifealign.model.logp_cache import ReferenceCache, adapter_sha256, cached_logps, pair_keys, pair_logps
from lifealign.strategies import make_strategy
from lifealign.training.loop import Loop, Stage, stage_reached, train_stage
from lifealign.training.schedule import learning_rate, row_order, windows
from support.rows import rows
from support.tiny import make_model, make_tokenizer


def run(
    config: TrainConfig | None = None,
    *,
    strategy: StrategyChoice | None = None,
    lora: LoraConfig | None = None,
    stage: str = "preference",
    epochs: int = 2,
    checkpoints: Path | None = None,
    shared_prefix: bool = True,
    count: int = 10,
    change: Callable[[Loop], None] | None = None,
    change_stage: Callable[[Stage], Stage] = lambda stage: stage,
) -> tuple[dict[str, torch.Tensor], Loop]:
    """Train a tiny model; returns its adapter and the loop."""
    config = config or TrainConfig(pairs_per_step=4, learning_rate=5e-3)
    method = make_strategy(strategy or StrategyChoice(name="sequential"), lora or LoraConfig(r=2), 0)
    model = method.attach(make_model("llama"))
    pairs, _ = Encoder(make_tokenizer(), "chat", 256).encode(rows("bread", count))
    accelerator = Accelerator(cpu=True)
    packing: dict[str, Any] = {"shared_prefix": shared_prefix, "tokens_per_pack": 512, "accelerator": accelerator}
    reference = pair_logps(model, pairs, **packing, beyond=method.objective.beyond)
    loop = Loop("bread", model, method, config, 0, shared_prefix, accelerator, checkpoints)
    if change:
        change(loop)
    whole = loop.stage(stage, epochs, config.learning_rate, pairs, reference, lambda r: iter(()))
    train_stage(loop, change_stage(whole))
    return snapshot(model), loop


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> bool:
    return all(float((a[k] - b[k]).abs().max()) <= tolerance for k in a)


def test_row_order_is_a_function_of_its_arguments() -> None:
    order = row_order(0, "t", "preference", 0, 100)
    assert sorted(order) == list(range(100)) and order == row_order(0, "t", "preference", 0, 100)
    others = [(1, "t", "preference", 0), (0, "u", "preference", 0), (0, "t", "sft", 0), (0, "t", "preference", 1)]
    assert all(row_order(*other, 100) != order for other in others)


def test_learning_rate_warms_up_and_falls_to_nearly_zero() -> None:
    rates = [learning_rate(i, 20, 0.1, 1.0) for i in range(20)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[11] == pytest.approx(0.5)  # half of the cosine
    assert rates[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 17 / 18)))
    assert learning_rate(0, 1, 0.0, 1.0) == 1.0


def test_windows_hold_every_pair_once_an_epoch() -> None:
    steps = windows(0, "t", "preference", 3, [[i] for i in range(10)], 4)
    assert [len(s) for s in steps] == [4, 4, 2] * 3
    for epoch in range(3):
        assert sorted(i for s in steps[3 * epoch : 3 * epoch + 3] for i in s) == list(range(10))
    order = row_order(0, "t", "preference", 0, 10)
    assert steps[:3] == [order[:4], order[4:8], order[8:]]
    # Units stay whole: one larger than a step is a step of its own.
    units = [[0, 1, 2], [3], [4, 5, 6, 7, 8], [9, 10]]
    for step in windows(0, "t", "preference", 2, units, 4):
        assert len(step) <= 4 or step == units[2]
        assert all(set(u) <= set(step) or not set(u) & set(step) for u in units)


def test_first_step_is_ln2_and_training_lowers_the_loss() -> None:
    _, loop = run(epochs=6)
    assert loop.log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert loop.log[0]["margin"] == 0 and loop.log[0]["focal_weight"] == 1
    assert loop.log[-1]["loss"] < 0.5 and loop.log[-1]["accuracy"] == 1
    _, focal = run(strategy=StrategyChoice(name="sequential", loss="fpo", gamma=2.0), epochs=1)
    assert focal.log[0]["loss"] == pytest.approx(math.log(2) / 4, abs=1e-6)
    assert focal.log[0]["focal_weight"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"label_smoothing": 0.1}, math.log(2)),
        ({"loss": "robust"}, math.log(2)),
        ({"loss": "hinge"}, 1.0),
        ({"length_normalised": True}, math.log(2)),
        ({"ld_alpha": 0.5}, math.log(2)),
        ({"ld_alpha": 0.0}, math.log(2)),
        ({"f_divergence": "forward_kl"}, math.log(2)),
        ({"f_divergence": "js"}, math.log(2)),
        ({"f_divergence": "alpha"}, math.log(2)),
        ({"rpo_alpha": 1.0}, None),
    ],
    ids=str,
)
def test_every_variant_starts_at_the_reference_and_lowers_its_loss(
    options: dict[str, Any], first: float | None
) -> None:
    _, loop = run(strategy=StrategyChoice(name="sequential", **options), epochs=6)
    assert first is None or loop.log[0]["loss"] == pytest.approx(first, abs=1e-6)
    assert loop.log[0]["margin"] == 0
    assert loop.log[-1]["loss"] < 0.9 * loop.log[0]["loss"] and loop.log[-1]["accuracy"] == 1


def test_packing_does_not_change_the_result() -> None:
    """10 pairs, 4 a step: the last window of each epoch has 2, so a mean over packs instead of pairs would show."""
    one, _ = run(TrainConfig(pairs_per_step=4, learning_rate=5e-3, tokens_per_pack=1))
    many, _ = run(TrainConfig(pairs_per_step=4, learning_rate=5e-3, tokens_per_pack=4096))
    plain, _ = run(TrainConfig(pairs_per_step=4, learning_rate=5e-3, tokens_per_pack=300), shared_prefix=False)
    start, _ = run(epochs=0)
    assert not close(one, start, 1e-2)
    assert close(many, one, 2e-4)
    assert close(plain, one, 2e-4)


def gradients(at: int, normalise: bool, budget: int) -> torch.Tensor:
    """Gradient of optimizer step `at`, before clipping."""
    seen: list[torch.Tensor] = []

    def spy(loop: Loop) -> None:
        def adjust(step) -> None:  # type: ignore[no-untyped-def]
            if step.index == at:
                seen.append(torch.cat([p.grad.flatten() for p in step.parameters.values()]))

        loop.strategy.adjust_gradients = adjust  # type: ignore[method-assign]

    choice = StrategyChoice(name="sequential", loss="fpo", gamma=2.0, normalise_weights=normalise)
    run(
        TrainConfig(pairs_per_step=4, learning_rate=1e-2, tokens_per_pack=budget), strategy=choice, change=spy, epochs=1
    )
    return seen[0]


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("at", [1, 2])  # the policy has moved, so weights differ; step 2 is the window of two pairs
def test_gradient_of_a_step_does_not_depend_on_its_packs(normalise: bool, at: int) -> None:
    one, many = gradients(at, normalise, 1), gradients(at, normalise, 4096)
    torch.testing.assert_close(many, one, atol=1e-3 * float(one.abs().max()), rtol=1e-2)


def test_normalised_weights_have_mean_one() -> None:
    """At step 0 every focal weight is 1/4, so normalising multiplies the gradient by exactly 4."""
    torch.testing.assert_close(gradients(0, True, 1), 4 * gradients(0, False, 1), atol=1e-6, rtol=1e-5)


class StoppedError(Exception):
    pass


def stop_after(steps: int) -> Callable[[Loop], None]:
    """Raise in the loop once `steps` optimizer steps were begun."""

    def change(loop: Loop) -> None:
        begun = 0

        def penalty(model: torch.nn.Module) -> torch.Tensor:
            nonlocal begun
            begun += 1
            if begun > steps:
                raise StoppedError
            return torch.zeros(())

        loop.strategy.penalty = penalty  # type: ignore[method-assign]

    return change


@pytest.mark.parametrize("stage", ["preference", "sft"])
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, stage: str, stop: int, one_thread: None) -> None:
    """Stopped after `stop` steps of six, and again one step later (so twice in one epoch)."""
    config = TrainConfig(pairs_per_step=4, learning_rate=5e-3, checkpoint_every=1)
    lora = LoraConfig(r=2, dropout=0.2)
    whole, _ = run(config, lora=lora, stage=stage)
    for steps in (stop, 1):
        with pytest.raises(StoppedError):
            run(config, lora=lora, stage=stage, checkpoints=tmp_path, change=stop_after(steps))
    resumed, loop = run(config, lora=lora, stage=stage, checkpoints=tmp_path)
    assert same(resumed, whole)
    assert [line["step"] for line in loop.log] == [1, 2, 3, 4, 5, 6]
    reached = stage_reached(tmp_path)
    assert reached is not None and reached[0] == stage


def test_dropout_is_used_and_seeded() -> None:
    a, _ = run(lora=LoraConfig(r=2, dropout=0.3))
    b, _ = run(lora=LoraConfig(r=2, dropout=0.3))
    none, _ = run(lora=LoraConfig(r=2))
    assert same(a, b) and not close(a, none, 1e-4)


def test_a_stage_may_bring_its_own_steps_rates_and_no_dropout(one_thread: None) -> None:
    """With AdamW's first step, every entry moves by the rate, up to its epsilon: the first rate shows in the weights."""

    def own(windows: list[list[int]], rates: list[float], dropout: bool = True) -> Callable[[Stage], Stage]:
        return lambda stage: replace(stage, windows=windows, rates=rates, dropout=dropout)

    start, _ = run(epochs=0)
    moved, loop = run(change_stage=own([[3, 1, 3]], [2e-3]))
    (b,) = (name for name in start if name.endswith("0.self_attn.q_proj.lora_B"))
    steps = (moved[b] - start[b]).abs()
    assert float(steps.max()) == pytest.approx(2e-3, rel=1e-3) and loop.log[0]["step"] == 1
    twice, loop = run(change_stage=own([[0, 1], [1, 2, 0]], [1e-3, 4e-3]))
    assert [line["learning_rate"] for line in loop.log] == [1e-3, 4e-3]
    off, _ = run(lora=LoraConfig(r=2, dropout=0.3), change_stage=own([[0, 1], [1, 2, 0]], [1e-3, 4e-3], dropout=False))
    on, _ = run(lora=LoraConfig(r=2, dropout=0.3), change_stage=own([[0, 1], [1, 2, 0]], [1e-3, 4e-3]))
    assert same(off, twice) and not close(on, twice, 1e-4)


def test_skipped_pairs_leave_the_gradient_and_are_logged() -> None:
    choice = StrategyChoice(name="sequential", loss="fpo", gamma=2.0)
    _, loop = run(TrainConfig(pairs_per_step=4, skip_weight_below=0.3), strategy=choice, epochs=1)
    assert loop.log[0]["skipped"] == 1 and loop.log[0]["grad_norm"] == 0  # all weights are 0.25 at step 0
    assert loop.log[0]["skipped_gradient_bound"] == pytest.approx(0.2983, abs=1e-3)
    _, loop = run(TrainConfig(pairs_per_step=4, skip_weight_below=0.2), strategy=choice, epochs=1)
    assert loop.log[0]["skipped"] == 0 and loop.log[0]["grad_norm"] > 0


def test_penalty_is_added_once_per_step_and_not_clipped() -> None:
    gradients: list[torch.Tensor] = []

    def pull(loop: Loop) -> None:
        first = next(iter(trainable(loop.model).values()))
        loop.strategy.penalty = lambda model: 3.0 * first.sum()  # type: ignore[method-assign]
        loop.strategy.loss = lambda batch, policy, reference, objective: policy.chosen * 0  # type: ignore[method-assign]
        loop.strategy.adjust_update = lambda step: gradients.append(first.grad.clone())  # type: ignore

    _, loop = run(TrainConfig(pairs_per_step=10, tokens_per_pack=1, max_grad_norm=0.1), change=pull, epochs=1)
    assert len(gradients) == 1 and torch.equal(gradients[0], torch.full_like(gradients[0], 3.0))
    assert loop.log[0]["grad_norm"] == 0 and "penalty" in loop.log[0]  # the norm is that of the loss


@pytest.mark.parametrize("of", ["loss", "penalty"])
def test_a_loss_or_penalty_that_is_not_finite_stops_with_the_step_and_rows(of: str) -> None:
    def spoil(loop: Loop) -> None:
        if of == "loss":
            loop.strategy.loss = lambda batch, policy, reference, objective: policy.chosen * math.nan  # type: ignore[method-assign]
        else:
            first = next(iter(trainable(loop.model).values()))
            loop.strategy.penalty = lambda model: math.inf * (1 + first.sum())  # type: ignore[method-assign]

    said = r"the loss \(nan\)" if of == "loss" else r"penalty \(inf\)"
    with pytest.raises(TrainingError, match=rf"task 'bread': .*{said}.*step 1 of stage preference.*learning rate"):
        run(change=spoil)


def test_gradients_that_are_there_before_a_stage_are_left_out() -> None:
    """A stage that was stopped leaves them in the model, and a process may go on with it."""

    def leave(loop: Loop) -> None:
        for parameter in trainable(loop.model).values():
            parameter.grad = torch.full_like(parameter, math.nan)

    assert same(run(change=leave)[0], run()[0])


def test_an_accumulation_that_the_launcher_was_given_does_not_divide_the_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, _ = run(epochs=1)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    launched, loop = run(epochs=1)
    assert loop.accelerator.gradient_accumulation_steps == 4 and same(plain, launched)


def test_log_probs_that_are_not_numbers_are_not_remembered(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path / "logps.sqlite")
    cache.put({"spoiled": (math.nan, -1.0), "sound": (-2.0, -1.0)})
    assert cache.get(["spoiled", "sound"]) == {"sound": (-2.0, -1.0)}


def test_where_a_row_is_cut_is_in_the_key_where_it_decides_the_rounding() -> None:
    pairs, _ = Encoder(make_tokenizer(), "chat", 256).encode(rows("bread", 2))
    cut = [replace(pair, opening=pair.opening + 1) for pair in pairs]
    for dtype, same_keys in (("float32", True), ("bfloat16", False)):
        base = {"weights": "w", "dtype": dtype}
        assert (pair_keys(pairs, base, "off") == pair_keys(cut, base, "off")) is same_keys
        packed, plain = (pair_keys(pairs, base, "off", ("cpu", way)) for way in ("packed", "plain"))
        assert (packed == plain) is same_keys  # the layout, too, moves log-probs in half precision alone


def test_gradients_are_clipped() -> None:
    wide, _ = run(TrainConfig(pairs_per_step=4, max_grad_norm=1e9))
    tight, loop = run(TrainConfig(pairs_per_step=4, max_grad_norm=1e-9))
    assert loop.log[0]["grad_norm"] > 1e-9 and not close(wide, tight, 1e-6)


def test_cached_reference_equals_live_and_is_found_again(tmp_path: Path) -> None:
    method = make_strategy(StrategyChoice(name="sequential"), LoraConfig(r=2, dropout=0.5), 0)
    model = method.attach(make_model("llama"))
    pairs, _ = Encoder(make_tokenizer(), "chat", 256).encode(rows("bread", 6))
    calls = 0
    accelerator = Accelerator(cpu=True)

    def logps(base: dict[str, str], adapter: str, data: Sequence = pairs) -> torch.Tensor:
        nonlocal calls
        before = cache.get([]) or {}
        assert before == {}
        import lifealign.model.logp_cache as module

        real = module.token_logps

        def counted(*a):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            return real(*a)

        module.token_logps = counted
        try:
            return cached_logps(
                model,
                data,
                cache=cache,
                base=base,
                adapter=adapter,
                shared_prefix=True,
                tokens_per_pack=4096,
                accelerator=accelerator,
            )
        finally:
            module.token_logps = real

    cache = ReferenceCache(tmp_path / "logps.sqlite")
    base = {"weights": "w", "dtype": "float32"}
    model.train()  # dropout must not reach the reference
    first = logps(base, "off")
    assert model.training and calls == 1
    assert torch.equal(logps(base, "off"), first) and calls == 1
    live = pair_logps(model, pairs, shared_prefix=True, tokens_per_pack=4096, accelerator=accelerator)
    assert torch.equal(live, first)
    for changed in ({"weights": "v", "dtype": "float32"}, {"weights": "w", "dtype": "bfloat16"}):
        before = calls
        logps(changed, "off")
        assert calls == before + 1
    before = calls
    logps(base, "another adapter")
    logps(
        base,
        "off",
        Encoder(make_tokenizer(), "chat", max(len(p.prompt) for p in pairs) + 2).encode(rows("bread", 6))[0],
    )
    assert calls == before + 2


def test_a_fresh_adapter_counts_as_off() -> None:
    method = make_strategy(StrategyChoice(name="sequential"), LoraConfig(r=2), 0)
    tensors = snapshot(method.attach(make_model("llama")))
    assert adapter_sha256(tensors) == adapter_sha256(None) == "off"
    name = next(n for n in tensors if n.endswith("lora_B"))
    tensors[name][0, 0] = 1.0
    assert len(adapter_sha256(tensors)) == 64


def test_a_cache_file_without_its_table_knows_nothing(tmp_path: Path) -> None:
    """Another process has just made the file."""
    path = tmp_path / "logps.sqlite"
    path.touch()
    cache = ReferenceCache(path)
    assert cache.get(["a"]) == {}
    cache.put({"a": (-1.5, -2.5)})
    assert cache.get(["a", "b"]) == {"a": (-1.5, -2.5)}


def test_cache_goes_on_after_a_writer_was_killed(tmp_path: Path) -> None:
    """The file and its journal as they lie there in the middle of a write."""
    cache = ReferenceCache(tmp_path / "logps.sqlite")
    cache.put({"a": (-1.0, -2.0)})
    with closing(sqlite3.connect(tmp_path / "logps.sqlite")) as database:
        database.execute("PRAGMA cache_size = 1")
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO logps VALUES (?, 0, 0)", [(f"{i:064d}",) for i in range(5000)])
        killed = tmp_path / "killed"
        killed.mkdir()
        for name in ("logps.sqlite", "logps.sqlite-journal"):
            shutil.copy(tmp_path / name, killed / name)
        database.rollback()
    after = ReferenceCache(killed / "logps.sqlite")
    assert after.get(["a", f"{0:064d}"]) == {"a": (-1.0, -2.0)}
