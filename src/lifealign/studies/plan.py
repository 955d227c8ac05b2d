"""Turn a study's configuration into runs, each with an id computed from its content. Imports no torch.

The options of a strategy are declared in its file, which needs torch. So a separate process checks them and fills in
their defaults: the id of a run covers every value that it uses, written or not.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lifealign.core.config import StreamConfig
from lifealign.core.config_files import merge
from lifealign.core.errors import ConfigError, DataError
from lifealign.core.files import file_sha256
from lifealign.core.option_names import current_names, former_names
from lifealign.core.presets import with_preset
from lifealign.core.version import __version__
from lifealign.data.sources import expand_path
from lifealign.data.suites.catalog import suite_of
from lifealign.strategies import STRATEGIES
from lifealign.studies.config import MethodConfig, StudyConfig, load_study, task_names
from lifealign.studies.design import scored_rows
from lifealign.studies.program import code_of
from lifealign.studies.worker import apart, here, resolve, source_key

PAPER_ORDERS = {"order1": (1, 2, 3, 4, 5, 6), "order2": (6, 5, 4, 3, 2, 1), "order3": (3, 1, 6, 4, 2, 5)}
"""Task orders of the LifeAlign paper (arXiv 2509.17183), 1-based positions in its list of six tasks."""
MOST_PERMUTED = 6
"""`all` is refused for more tasks: 7 would be 5,040 orders."""
ID_DIGITS = 16

Settings = dict[str, Any]
Order = tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        id: hash of its content (hex); the same id means the same run, in any study.
        memory_id: hash of all that determines its weights; runs that differ only in what is scored share a memory.
        method: label.
        point: the swept setting and its value; empty if nothing is swept.
        settings: what the method sets, including chosen and swept settings.
        order: name of the task order.
        seed: of the run.
        model: name of the base model.
        config: the whole run configuration except its memory.
    """

    id: str
    memory_id: str
    method: str
    point: Settings
    settings: Settings
    order: str
    seed: int
    model: str
    config: Mapping[str, Any]

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return str(self.config["strategy"]["name"])


@dataclass(frozen=True)
class Plan:
    """A checked study.

    Attributes:
        study: its configuration.
        orders: name -> 1-based positions of the tasks as listed.
        tasks: names of the tasks as listed.
        models: names of base models.
        trees: (label, settings) -> complete run configuration; `_run` sets seed, model, order and split.
        files: path of each local file of rows -> sha256.
        sources: name of each strategy and loss from outside, and `source_key` of each score, rule and row format -> sha256
            of its source.
        rows: test rows of each task that the (first) score of the selection is measured on; see `design.scored_rows`.
        code: strategy -> the files of lifealign that make the numbers of its runs, with the checksum of each one's code.
    """

    study: StudyConfig
    orders: Mapping[str, Order]
    tasks: Sequence[str]
    models: Sequence[str]
    trees: Mapping[tuple[str, str], Mapping[str, Any]]
    files: Mapping[str, str]
    sources: Mapping[str, str | None]
    code: Mapping[str, Mapping[str, str]]
    rows: Sequence[int] | None

    def trials(self, method: MethodConfig) -> list[Settings]:
        """Every combination of the grid; without a grid, a single empty one."""
        return trials(self.study, method)

    def selection_runs(self, method: MethodConfig, trial: Settings) -> list[Run]:
        """Runs on validation rows that judge one trial."""
        order = next(iter(self.orders))
        seeds = self.study.selection.seeds or self.study.seeds[:1]
        return [
            self._run(method, trial, {}, order, seed, model, "validation", self.study.selection.tasks)
            for seed in seeds
            for model in self.models
        ]

    def reported_runs(self, chosen: Mapping[str, Settings | None]) -> list[Run]:
        """Runs on test rows of methods whose settings are known, seed by seed, so that all methods advance together.

        Args:
            chosen: label -> the chosen trial; None or missing: not chosen yet, or none could be chosen.
        """
        return [
            self._run(method, trial, point, order, seed, model, "test")
            for seed, order, model, method in self.cells()
            if (trial := chosen.get(method.label)) is not None
            for point in points(self.study, method)
        ]

    def cells(self) -> list[tuple[int, str, str, MethodConfig]]:
        """(seed, order, model, method) of everything reported."""
        return list(itertools.product(self.study.seeds, self.orders, self.models, self.study.methods))

    def task_order(self, name: str) -> list[str]:
        """Task names in an order."""
        return [self.tasks[i - 1] for i in self.orders[name]]

    def _run(
        self,
        method: MethodConfig,
        trial: Settings,
        point: Settings,
        order: str,
        seed: int,
        model: str,
        split: str,
        tasks: int | None = None,
    ) -> Run:
        config = dict(self.trees[method.label, _key({**trial, **point})])
        config |= {
            "seed": seed,
            "model": {**config["model"], "name": model},
            "stream": {**config["stream"], "order": list(self.orders[order][:tasks])},
            "evaluate": {**config["evaluate"], "split": split},
        }
        settings = {**method.set, **trial, **point}
        ids = (self._digest(config), self._digest({k: v for k, v in config.items() if k not in ("evaluate", "guard")}))
        return Run(*ids, method.label, point, settings, order, seed, model, config)

    def _digest(self, config: Mapping[str, Any]) -> str:
        release = ".".join(__version__.split(".")[:2])
        stream = {k: v for k, v in config["stream"].items() if k != "name"}  # the name is only shown
        # Without a guard, the id is the same as before guards existed.
        unguarded = not any((config.get("guard") or {}).get(probe) for probe in ("text", "choices"))
        relevant = {k: v for k, v in config.items() if k != "guard" or not unguarded}
        # The id uses the original names of options, so that later studies still find the first runs.
        chosen = config["strategy"]
        content: list[Any] = [release, {**relevant, "stream": stream, "strategy": former_names(chosen)}, self.files]
        # Changed outside code makes another run; a run without outside code keeps its id.
        names = (chosen["name"], chosen.get("loss"), *self._code_of_data(config))
        if used := {n: self.sources[n] for n in names if n in self.sources}:
            content.append(used)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:ID_DIGITS]

    def _code_of_data(self, config: Mapping[str, Any]) -> Iterator[str]:
        """`source_key` of the row formats that read a run's rows, and of the scores and rules that it measures with."""
        yield from (key for key in self.sources if key.startswith(source_key("format", "")))
        evaluate, stream = config.get("evaluate", {}), config["stream"]
        yield from (source_key("score", n) for k in ("text_metrics", "scores") for n in evaluate.get(k, ()))
        if evaluate.get("generations") and stream["tasks"]:
            rules = (stream["tasks"][i - 1].get("checker") for i in stream["order"])
            yield from (source_key("checker", name) for name in rules if name is not None)


def make_plan(path: Path) -> Plan:
    """Read and check a study file, including every setting of every method.

    Raises:
        ConfigError: lists every mistake.
    """
    study, base = load_study(path)
    assert base.stream is not None
    listed = task_names(base.stream)
    given = base.stream.order or tuple(range(1, len(listed) + 1))
    mistakes: list[str] = []
    orders: dict[str, Order] = {}
    for name in study.orders:
        try:
            orders |= {n: tuple(given[i - 1] for i in p) for n, p in named_orders(name, len(given)).items()}
        except ConfigError as error:
            mistakes.append(f"{path}: orders: {error}")
    wanted = {
        (m.label, _key({**trial, **point})): (m, {**trial, **point})
        for m in study.methods
        for trial in trials(study, m)
        for point in [{}, *points(study, m)]
    }
    trees = [(f"{path}: method {m.label!r}", _tree(study, m, settings)) for m, settings in wanted.values()]
    found, sources = apart(resolve, trees, *here())
    for one in found:
        mistakes += one if isinstance(one, list) else []
    if mistakes:
        raise ConfigError("\n".join(dict.fromkeys(mistakes)))
    resolved = {key: one for key, one in zip(wanted, found, strict=True) if isinstance(one, dict)}
    models = study.models or (base.model.name,)
    code = {name: strategy_code(name) for name in {m.strategy_name for m in study.methods}}
    first = next(iter(resolved.values()))
    placed = {**first, "stream": {**first["stream"], "order": list(next(iter(orders.values())))}}
    rows = scored_rows(placed, study.seeds[0], study.selection.parts[0][1])
    return Plan(study, orders, listed, models, resolved, _file_digests(base.stream), sources, code, rows)


def strategy_code(name: str) -> dict[str, str]:
    """The files of lifealign that make the numbers of a strategy's runs, with their checksums."""
    reference = None if STRATEGIES.is_outside(name) else STRATEGIES.origin(name).reference
    return code_of([] if reference is None else [reference])


def trials(study: StudyConfig, method: MethodConfig) -> list[Settings]:
    """Every combination of a method's grid; without a grid, a single empty one."""
    grid = study.grid_of(method)
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def points(study: StudyConfig, method: MethodConfig) -> list[Settings]:
    """Settings that a method is reported at, one key of its sweep at a time; without a sweep, a single empty one."""
    return [{key: value} for key, values in study.sweep_of(method).items() for value in values] or [{}]


def named_orders(name: str, count: int) -> dict[str, Order]:
    """Expand an entry of `orders`: name -> 1-based positions.

    Args:
        name: `given`, `reversed`, `order1` to `order3`, `random:N` or `all`.
        count: number of tasks.

    Raises:
        ConfigError: the name is unknown, or does not fit the number of tasks.
    """
    given = tuple(range(1, count + 1))
    if name in PAPER_ORDERS:
        if count != len(PAPER_ORDERS[name]):
            raise ConfigError(f"{name} is an order of six tasks, but the stream has {count}")
        return {name: PAPER_ORDERS[name]}
    if name == "given":
        return {name: given}
    if name == "reversed":
        return {name: given[::-1]}
    if name == "all":
        if count > MOST_PERMUTED:
            raise ConfigError(f"all works for up to {MOST_PERMUTED} tasks, but the stream has {count}; use random:N")
        return {"-".join(map(str, p)): p for p in itertools.permutations(given)}
    kind, _, number = name.partition(":")
    if kind == "random" and number.isdecimal() and 1 <= int(number) <= math.factorial(count):
        return {f"random{i}": p for i, p in enumerate(_random_orders(int(number), count), 1)}
    raise ConfigError(
        f"unknown order {name!r}; allowed: given, reversed, order1, order2, order3, all, random:N "
        f"(N different orders, 1 <= N <= {count}! for {count} tasks)"
    )


def _random_orders(number: int, count: int) -> list[Order]:
    """`number` different permutations; the i-th does not depend on how many are asked for."""
    generator = np.random.default_rng(0)
    found: dict[Order, None] = {}
    while len(found) < number:
        found[tuple(int(i) + 1 for i in generator.permutation(count))] = None
    return list(found)


def _tree(study: StudyConfig, method: MethodConfig, settings: Settings) -> dict[str, Any]:
    tree: Mapping[str, Any] = merge(study.base, {"strategy": {"name": method.strategy_name}})
    tree = {
        **tree,
        "strategy": current_names(method.strategy_name, tree["strategy"], f"base of method {method.label!r}"),
    }
    for key, value in {**method.set, **settings}.items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        tree = merge(tree, nested)
    return with_preset(tree)


def _key(settings: Settings) -> str:
    return json.dumps(settings, sort_keys=True)


def _file_digests(stream: StreamConfig) -> dict[str, str]:
    """sha256 of the content of the suite, or of every local file of rows; data sets of a hub are left out."""
    if stream.suite is not None:
        return {stream.suite: suite_of(stream).sha256}
    paths = {s.path for t in stream.tasks for s in (t.train, t.test) if s is not None}
    found = {path: Path(expand_path(path)) for path in sorted(paths)}
    return {path: file_sha256(p, DataError) for path, p in found.items() if p.exists() and not p.is_dir()}
