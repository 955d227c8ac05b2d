"""A finished memory taken apart: withdrawn tasks, routed answers, and how good the forecast of interference was.

    python benchmarks/recompose.py runs/planted --out results/recompose.json

The memory must come from `lifealign run` (the training rows for the forecast are those of its stream) with a strategy
whose weights are the sum of its tasks' updates. Scores are those of the test rows, as `lifealign evaluate` has them; the
memory is not written to. Of each measure:

- withdrawn: every task in turn gets weight 0: its own score before and after, and the mean change of the others;
- routed: the rows of a task answered by the updates of the tasks that each prompt may belong to, beside the plain sum;
- forecast: before each task after the first, the overlap of a few steps on its rows with every stored task, against the
  score that the stored task then lost (R[k-1][j] - R[k][j]); Spearman's rank correlation over all such pairs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lifealign.core.errors import ConfigError
from lifealign.core.json_codec import to_json
from lifealign.core.progress import make_progress
from lifealign.data.load import load_stream
from lifealign.data.tasks import Task
from lifealign.evaluation import catalog
from lifealign.memory.api import Memory
from lifealign.memory.composer import Composer
from lifealign.memory.recompose import relate, score_composed
from lifealign.store.heldout import heldout

SCORES = ("accuracy", "margin", "nll")


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rho of the pairs in which neither is NaN; equal values share their mean rank; NaN if it has no meaning."""
    pairs = np.array([(a, b) for a, b in zip(x, y, strict=True) if not (math.isnan(a) or math.isnan(b))])
    if len(pairs) < 3:
        return math.nan
    first, second = (_ranks(column) for column in pairs.T)
    if not (first.std() and second.std()):
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Any) -> Any:
    less, equal = values[:, None] > values, values[:, None] == values
    return less.sum(1) + (equal.sum(1) - 1) / 2


def withdrawn(memory: Memory, tasks: Sequence[Task], space: str | None) -> dict[str, Any]:
    """Task -> its scores and the others' with its update withdrawn."""
    store, session = memory._store, memory._session(memory.config, make_progress())
    composer = Composer(store, store.head, space)
    found = {}
    for name in composer.names:
        made = composer(composer.weights({name: 0.0}))
        scores = score_composed(session, store, store.head, made.adapter, tasks, "test")
        others = [n for n in scores if n != name]
        found[name] = {
            "own": {m: v for m, v in scores[name].items() if not math.isnan(v["composed"])},
            "others_change": {
                m: sum(scores[n][m]["composed"] - scores[n][m]["stored"] for n in others) / len(others)
                for m in SCORES
                if others
            },
            "scores": scores,
            "change": made.change,
            "truncation_error": made.truncation_error,
        }
    return found


def routed(memory: Memory, tasks: Sequence[Task]) -> dict[str, Any]:
    """Task -> mean scores with each row's prompt routed, and the share of the prompts that go to each set of tasks."""
    store, session = memory._store, memory._session(memory.config, make_progress())
    session.load(store, store.head, route=True)
    found: dict[str, Any] = {}
    for task in tasks:
        assert session.routes is not None
        chosen = session.routes.router.tasks(
            session.view, [session.encoder.prompt_ids(row.prompt) for row in task.test]
        )
        scores = session.score(
            task.name, task.test, None, generations=0, max_new_tokens=1, title=f"routed: {task.name}"
        )
        means = {}
        for metric in SCORES:
            values = [value for value in scores.rows[metric] if value is not None]
            means[metric] = catalog.score(metric).scale * sum(values) / len(values) if values else math.nan
        shares = {" + ".join(tasks) or "unknown": chosen.count(tasks) / len(chosen) for tasks in dict.fromkeys(chosen)}
        found[task.name] = {"scores": means, "shares": shares}
    return found


def forecasts(memory: Memory, stream: Mapping[str, Task], steps: int) -> dict[str, Any]:
    """Overlap of each later task with each stored one, what the stored one then lost, and their rank correlation."""
    store, session = memory._store, memory._session(memory.config, make_progress())
    lineage = store.lineage()
    matrices = {metric: memory.scores(metric) for metric in SCORES}
    pairs = []
    for k in range(1, len(lineage) - 1):
        related = relate(session, store, lineage[k], stream[lineage[k + 1].name].train, steps)
        by_name = {t.task: t for t in related.tasks}
        for j in range(k):
            stored = by_name[lineage[j + 1].name]
            lost = {
                metric: (-1.0 if metric == "nll" else 1.0) * (R[k - 1][j] - R[k][j]) for metric, R in matrices.items()
            }
            pairs.append({"new": lineage[k + 1].name, **vars(stored), "lost": lost})
    overlaps = [math.nan if p["overlap"] is None else p["overlap"] for p in pairs]
    gaps = [math.nan if p["distance"] is None else p["distance"] for p in pairs]
    predictors = {
        "minus_overlap": [-v for v in overlaps],
        "absolute_overlap": [abs(v) for v in overlaps],
        "minus_distance": [-v for v in gaps],
    }
    correlation = {
        name: {metric: rank_correlation(values, [p["lost"][metric] for p in pairs]) for metric in SCORES}
        for name, values in predictors.items()
    }
    return {"steps": steps, "pairs": pairs, "rank_correlation": correlation}


def measure(path: Path, *, rows: int | None, steps: int, space: str | None) -> dict[str, Any]:
    """Everything that this file measures, as plain values."""
    memory = Memory.open(path)
    config = memory.config
    if config.stream is None:
        raise ConfigError(f"{path}: this memory was not made by `lifealign run`, so its training rows are not known")
    stream = {task.name: task for task in load_stream(config.stream, config.seed).tasks}
    tasks = [Task(t.name, (), (), t.test[:rows], t.checker) for t in heldout(memory._store)]
    taken = withdrawn(memory, tasks, space)
    first = next(iter(taken.values()))["scores"]
    return {
        "memory": str(path),
        "strategy": config.strategy.name,
        "seed": config.seed,
        "space": Composer(memory._store, memory._store.head, space).space,
        "test_rows": {t.name: len(t.test) for t in tasks},
        "plain": {name: {m: v["stored"] for m, v in scores.items()} for name, scores in first.items()},
        "withdrawn": taken,
        "routed": routed(memory, tasks),
        "forecast": forecasts(memory, stream, steps),
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """For people."""
    plain = {name: scores["accuracy"] for name, scores in result["plain"].items()}
    out = [f"{result['strategy']}, seed {result['seed']}, space {result['space']}; accuracy on test rows, percent", ""]
    out.append("withdrawn: own accuracy before -> after, mean change of the others")
    for name, found in result["withdrawn"].items():
        own, change = found["own"]["accuracy"], found["others_change"].get("accuracy", math.nan)
        out.append(f"  {name:<20} {own['stored']:6.1f} -> {own['composed']:6.1f}   {change:+6.1f}")
    out += ["", f"mean over tasks (plain sum {sum(plain.values()) / len(plain):.1f})"]
    cells = [v["scores"]["accuracy"] for v in result["routed"].values()]
    out.append(f"  routed: {sum(cells) / len(cells):.1f}")
    out += [
        "",
        f"forecast of {result['forecast']['steps']} steps, {len(result['forecast']['pairs'])} pairs: rank correlation",
    ]
    for name, by_metric in result["forecast"]["rank_correlation"].items():
        out.append(f"  {name:<17} " + ", ".join(f"{m} lost {v:+.2f}" for m, v in by_metric.items()))
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("memory", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rows", type=int, default=None, help="test rows a task at most; default: all")
    parser.add_argument("--steps", type=int, default=4, help="gradient steps of a forecast")
    parser.add_argument("--space", choices=["factors", "delta_w"], default=None)
    options = parser.parse_args(arguments)
    result = measure(options.memory, rows=options.rows, steps=options.steps, space=options.space)
    print("\n".join(lines(result)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(to_json(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
