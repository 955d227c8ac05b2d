"""Published objectives on one planted task: PoFT on noisy demonstrations, AFT's floor, LongPO's privileged reference.

    python benchmarks/systems.py poft --out results/systems-poft.json
    python benchmarks/systems.py aft --out results/systems-aft.json
    python benchmarks/systems.py longpo --out results/systems-longpo.json

Every life is one task of the planted suite with SmolLM2-135M on one thread, for each arm and seed. A life whose result is in the
file already is not repeated.

- poft: SFT alone, by NLL and by PoFT against the base model, with 0 and 30 % of the chosen answers shuffled among the rows; measured is
  the NLL of clean held-out answers.
- aft: the preference stage by DPO, RRHF (a hinge of the same difference, with the likelihood), AFT-DC and AFT-BC; measured are held-out
  accuracy, the mean log-prob per token of rejected answers, and its distance from AFT's boundary.
- longpo: a rule in a system turn that the policy does not see; measured is how many greedy answers follow it without the turn.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lifealign import Memory, Message, Row, Task, load_stream, make_progress, read_config, register_loss, register_score
from lifealign.core.config import StreamConfig, SuiteConfig
from lifealign.evaluation.metrics import seeds_interval
from lifealign.evaluation.pair_scores import PairLogProbs
from lifealign.training.loss_registry import Pairs

SEEDS = (0, 1, 2)
FLOOR = 0.4
"""AFT's beta."""
RULE = "Always answer in Spanish."
LONGEST = 24
SPANISH = frozenset(
    [
        "el",
        "la",
        "los",
        "las",
        "de",
        "que",
        "y",
        "en",
        "un",
        "una",
        "es",
        "para",
        "por",
        "con",
        "del",
        "su",
        "lo",
        "como",
        "se",
        "más",
    ]
)
ENGLISH = frozenset(
    ["the", "of", "and", "to", "is", "in", "that", "for", "it", "with", "are", "you", "this", "be", "your", "on", "as"]
)
SETTINGS = (
    "preset=paper",
    "model.name=smollm2-135m",
    "model.dtype=bfloat16",
    "lora.target_modules=all-linear",
    "strategy.name=sequential",
    "train.learning_rate=1e-3",
    "train.pairs_per_step=4",
    "sft.learning_rate=1e-3",
    "evaluate.before=false",
)


def planted(position: int, rows: int, test: int, seed: int) -> Task:
    """One task of the planted suite, by its position from 1."""
    sizes = SuiteConfig(train_rows=rows, validation_rows=0, test_rows=test)
    return load_stream(StreamConfig(planted=sizes, order=(position,)), seed).tasks[0]


def with_noise(task: Task, share: float, seed: int) -> Task:
    """The task with the chosen answers of a share of its training rows passed on among these rows."""
    rows = list(task.train)
    taken = random.Random(seed).sample(range(len(rows)), round(share * len(rows)))
    for here, there in zip(taken, taken[1:] + taken[:1], strict=True):
        rows[here] = replace(task.train[here], chosen=task.train[there].chosen)
    return replace(task, train=tuple(rows))


def learn(folder: Path, task: Task, seed: int, settings: tuple[str, ...]) -> Memory:
    """A memory of the one task."""
    memory = Memory.create(folder, read_config(None, [*SETTINGS, f"seed={seed}", *settings]), first=task)
    memory.learn(task, progress=make_progress())
    return memory


def scores(memory: Memory, *names: str) -> dict[str, float]:
    """Mean of each score over the task's test rows."""
    return {name: memory.scores(name)[-1][-1] for name in names}


def rejected_logp(pairs: PairLogProbs) -> Any:
    """Log-prob per token of the rejected answer, nats, [N]."""
    return pairs.policy[:, 1] / pairs.tokens[:, 1]


def above_floor(pairs: PairLogProbs) -> Any:
    """Distance of the rejected answer from AFT's boundary, which is `FLOOR` below the chosen one, nats per token, [N]."""
    return rejected_logp(pairs) - (pairs.policy[:, 0] / pairs.tokens[:, 0] - FLOOR)


def rrhf(pairs: Pairs, options: Any) -> Any:
    """max(0, s_r - s_c) [B] of log-probs per token (RRHF); the likelihood is added by rpo_alpha."""
    chosen = pairs.policy.chosen / pairs.lengths_chosen
    return (pairs.policy.rejected / pairs.lengths_rejected - chosen).clamp(min=0)


def spanish(answer: str) -> bool:
    """Whether an answer has more of the commonest Spanish words than of the commonest English ones."""
    words = re.findall(r"[^\W\d_]+", answer.casefold())
    return sum(w in SPANISH for w in words) > sum(w in ENGLISH for w in words)


def aft(folder: Path, arm: Mapping[str, Any], seed: int) -> dict[str, float]:
    """One life of the preference stage alone."""
    own = ("strategy.rpo_alpha=1",) if arm["loss"] == "rrhf" else ()
    settings = ("train.epochs=3", f"strategy.loss={arm['loss']}", "evaluate.scores=[rejected_logp, above_floor]", *own)
    memory = learn(folder, planted(2, 24, 12, seed), seed, settings)
    return scores(memory, "accuracy", "likelihood_accuracy", "nll", "rejected_logp", "above_floor")


@functools.cache
def self_made(seed: int) -> tuple[tuple[Row, ...], tuple[str, ...], float]:
    """Pairs of the base model's own answers with the rule and without, held-out questions, and how many it answers under the rule."""
    tasks = load_stream(StreamConfig(planted=SuiteConfig(train_rows=4, validation_rows=0, test_rows=2)), seed).tasks
    asked, held = ([row.prompt[-1].content for t in tasks for row in getattr(t, s)] for s in ("train", "test"))
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory.create(Path(folder) / "base", read_config(None, [*SETTINGS, f"seed={seed}"]))
        system = Message("system", RULE)
        told = memory.generate([[system, Message("user", q)] for q in (*asked, *held)], max_new_tokens=LONGEST)
        untold = memory.generate(asked, max_new_tokens=LONGEST)
    rows = [
        Row((Message("user", question),), with_rule.strip(), without.strip(), f"made:{number}")
        for number, (question, with_rule, without) in enumerate(zip(asked, told, untold, strict=False), 1)
        if spanish(with_rule) and not spanish(without)
    ]
    followed = [spanish(answer) for answer in told[len(asked) :]]
    return tuple(rows), tuple(held), sum(followed) / len(followed)


def longpo(folder: Path, arm: Mapping[str, Any], seed: int) -> dict[str, float]:
    """One life on pairs that the base model made itself."""
    rows, questions, told = self_made(seed)
    settings = {
        "longpo": ("train.epochs=3", "strategy.rpo_alpha=1", f"strategy.reference_context={RULE}"),
        "dpo": ("train.epochs=3", "strategy.rpo_alpha=1"),
        "sft": ("train.epochs=0", "sft.epochs=3"),
    }[arm["method"]]
    memory = learn(folder, Task("rule", rows), seed, settings)
    after = [spanish(answer) for answer in memory.generate(questions, max_new_tokens=LONGEST)]
    before = [spanish(answer) for answer in memory.generate(questions, as_of="base", max_new_tokens=LONGEST)]
    return {
        "pairs": len(rows),
        "told": 100 * told,
        "before": 100 * sum(before) / len(before),
        "after": 100 * sum(after) / len(after),
    }


def poft(folder: Path, arm: Mapping[str, Any], seed: int) -> dict[str, float]:
    """One life of SFT alone."""
    task = with_noise(planted(2, 24, 12, seed), arm["noise"], seed)
    memory = learn(folder, task, seed, ("sft.epochs=2", "train.epochs=0", f"sft.loss={arm['loss']}"))
    return scores(memory, "nll", "accuracy", "likelihood_accuracy")


Life = Callable[[Path, Mapping[str, Any], int], dict[str, float]]
EXPERIMENTS: Mapping[str, tuple[Life, tuple[Mapping[str, Any], ...]]] = {
    "poft": (poft, tuple({"loss": loss, "noise": noise} for noise in (0.3, 0.0) for loss in ("nll", "poft"))),
    "aft": (aft, tuple({"loss": loss} for loss in ("dpo", "rrhf", "aft_dc", "aft_bc"))),
    "longpo": (longpo, tuple({"method": method} for method in ("dpo", "longpo", "sft"))),
}


def named(arm: Mapping[str, Any]) -> str:
    """An arm as text."""
    return ", ".join(f"{key} {value}" for key, value in arm.items())


def summary(runs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Arm -> score -> mean and 95% interval over seeds."""
    found: dict[str, Any] = {}
    for arm, by_seed in runs.items():
        names = next(iter(by_seed.values()))
        found[arm] = {n: _interval([run[n] for run in by_seed.values()]) for n in names}
    return found


def difference(one: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Score -> mean and 95% interval of the paired difference over the seeds of both."""
    seeds = [seed for seed in one if seed in other]
    return {n: _interval([one[s][n] - other[s][n] for s in seeds]) for n in one[seeds[0]]} if seeds else {}


def _interval(values: list[float]) -> dict[str, Any]:
    mean, low, high = seeds_interval(values)
    if len(values) < 2:
        return {"values": values, "mean": mean, "low": None, "high": None}
    return {"values": values, "mean": mean, "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--out", type=Path, required=True, help="JSON file, written anew after each life")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    register_loss("rrhf", rrhf, reads_reference=False, options=["rpo_alpha"])
    register_score("rejected_logp", rejected_logp)
    register_score("above_floor", above_floor)
    life, arms = EXPERIMENTS[options.experiment]
    runs: dict[str, dict[str, dict[str, float]]] = {}
    if options.out.exists():
        runs = json.loads(options.out.read_text())["runs"]
    for seed in options.seeds:
        for arm in arms:
            done = runs.setdefault(named(arm), {})
            if str(seed) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                done[str(seed)] = life(Path(folder) / "memory", arm, seed)
            first = next(iter(runs))
            against = {arm: difference(found, runs[first]) for arm, found in runs.items() if arm != first and found}
            whole = {k: v for k, v in runs.items() if v}
            text = {"runs": runs, "summary": summary(whole), f"minus {first}": against}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
