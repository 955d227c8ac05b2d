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
import json
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lifealign import Memory, Task, load_stream, make_progress, read_config
from lifealign.core.config import StreamConfig
from lifealign.evaluation.metrics import seeds_interval

SEEDS = (0, 1, 2)
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
    sizes: Any = {"train_rows": rows, "validation_rows": 0, "test_rows": test}
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


def poft(folder: Path, arm: Mapping[str, Any], seed: int) -> dict[str, float]:
    """One life of SFT alone."""
    task = with_noise(planted(2, 24, 12, seed), arm["noise"], seed)
    memory = learn(folder, task, seed, ("sft.epochs=2", "train.epochs=0", f"sft.loss={arm['loss']}"))
    return scores(memory, "nll", "accuracy", "likelihood_accuracy")


Life = Callable[[Path, Mapping[str, Any], int], dict[str, float]]
EXPERIMENTS: Mapping[str, tuple[Life, tuple[Mapping[str, Any], ...]]] = {
    "poft": (poft, tuple({"loss": loss, "noise": noise} for noise in (0.3, 0.0) for loss in ("nll", "poft"))),
}


def named(arm: Mapping[str, Any]) -> str:
    """An arm as text."""
    return ", ".join(f"{key} {value}" for key, value in arm.items())


def summary(runs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Arm -> score -> mean and 95% interval over seeds; and the paired difference of each arm to the first one of its noise."""
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
    return {"values": values, "mean": mean, "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--out", type=Path, required=True, help="JSON file, written anew after each life")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
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
