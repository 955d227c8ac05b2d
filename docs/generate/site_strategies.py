"""A page for each strategy: its docstring, its options, and what it measured in the main table."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lifealign.core.config import LoraConfig, StrategyChoice
from lifealign.core.option_names import current_keys
from lifealign.strategies import STRATEGIES, make_strategy
from lifealign.studies.comparison import UPPER_BOUNDS, relative_time
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.signs import limits_text
from site_settings import Setting, setting_rows, settings, shown
from site_text import escape, paragraphs, table

ROOT = Path(__file__).resolve().parents[2]
MAIN_TABLE = ROOT / "results" / "main-table" / "results.json"
TIME = 5
"""Column of the training time."""
BESIDE = ("sequential", "replay", "lifealign", "joint")
"""Methods whose rows stand beside that of every strategy."""
RAN_BEFORE = {
    "agem": "on the gradient (`target=gradient`)",
    "copr": "with `slack=0.1` and no bound of lambda, which rose to 84",
    "gem": "on the gradient (`target=gradient`)",
    "ogpsa": "on the gradient (`target=gradient`), measured at every fifth step (`refresh=5`)",
}
"""Strategies whose row was measured with an earlier default -> that default."""


def shared_settings() -> list[Setting]:
    """The choice of a strategy, and the options of the objective, which all strategies share."""
    defaults: BaseModel = ObjectiveConfig()
    name = Setting("strategy.name", StrategyChoice().name, "Name of the strategy.")
    return [
        name,
        *(Setting(f"strategy.{s.key}", shown(getattr(defaults, s.key)), s.text) for s in settings(ObjectiveConfig)),
    ]


def own_settings(name: str) -> list[Setting]:
    """The options of one strategy that are its own, or have another default than the objective's."""
    config = STRATEGIES[name].Config
    shared = {s.key: s.default for s in shared_settings()}
    instance = config()
    found = []
    for key, field in config.model_fields.items():
        default = shown(getattr(instance, key))
        if shared.get(f"strategy.{key}") != default:
            found.append(Setting(f"strategy.{key}", default, field.description or ""))
    return found


def shared_table() -> str:
    """The options that all strategies share."""
    return setting_rows(shared_settings())


def strategy_page(name: str) -> str:
    """The page of one strategy."""
    cls = STRATEGIES[name]
    module = inspect.getdoc(sys.modules[cls.__module__]) or ""
    title = module.partition("\n")[0]
    parts = [f"# {name}", f"*{escape(title.rstrip('.'))}.*", paragraphs(inspect.getdoc(cls) or "")]
    parts += [f"```yaml\nstrategy: {{name: {name}}}\n```", "## Options"]
    own = own_settings(name)
    if own:
        parts.append(setting_rows(own))
    takes_objective = set(ObjectiveConfig.model_fields) <= set(cls.Config.model_fields)
    also = "The [options that all strategies share](../configuration.md#strategy-the-method-and-its-loss) apply too."
    parts.append(also if takes_objective else "It has a loss of its own: of the shared options it takes `beta` alone.")
    if seen := signs(name):
        parts += ["## Signs", seen]
    parts += ["## Measured", measured(name)]
    source = inspect.getsourcefile(cls)
    if source:
        parts.append(f"Source: `{Path(source).relative_to(ROOT)}`.")
    return "\n\n".join(parts)


def signs(name: str) -> str:
    """What must be seen of a strategy after each task, with the limits of its default options; nothing without signs."""
    own = make_strategy(StrategyChoice(name=name), LoraConfig(), 0).signs
    if not own:
        return ""
    rows = [[f"`{sign.key}`", escape(sign.says), limits_text(asdict(sign))] for sign in own]
    told = "Where one is not seen after a task, lifealign warns, and the scores say little of the method."
    return f"{table(('in the diagnostics', 'sign', 'expected'), rows)}\n\n{told} [Signs of a method](../../explanation/signs.md)"


def measured(name: str) -> str:
    """The strategy's row of the main table, with those of the methods it is read against."""
    document = json.loads(MAIN_TABLE.read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in document["table"]}
    if name not in rows:
        return "It is not in the main table."
    order = [name, *(other for other in BESIDE if other != name)]
    head: Sequence[str] = (
        "strategy",
        "Last, %",
        "BWT, points",
        "Learnt, %",
        "NLL at the end",
        "training time",
        "state, MB",
    )
    lines = [_row(other, name, rows[other]["metrics"], document["cost"][other]) for other in order]
    timed = any(relative_time(document["cost"][other]) is not None for other in order)
    if not timed:  # the machines of these runs are not recorded, so their times cannot be compared
        head, lines = _without_time(head), [_without_time(line) for line in lines]
    chosen = {json.dumps(r["settings"], sort_keys=True): r["settings"] for r in document["runs"] if r["method"] == name}
    notes = [f"`{other}`: {UPPER_BOUNDS[other]}." for other in order if other in UPPER_BOUNDS]
    options = "; ".join(_set(current_keys(name, settings)) for settings in chosen.values() if settings)
    notes += [f"`{name}` ran with {options}."] if options else []
    notes += [f"It ran {RAN_BEFORE[name]}, as was the default then."] if name in RAN_BEFORE else []
    caption = (
        "Six tasks of the embedded suite, 24 training rows each, SmolLM2-135M, three seeds; preference accuracy on test "
        "rows with 95% intervals over seeds. NLL is in nats per token of a chosen answer"
        f"{'; training time is relative to `sequential`' if timed else ''}. Three seeds make the intervals wide: see [Findings](../../results/findings.md) before you rank."
    )
    return "\n\n".join([table(head, lines, 1), " ".join(notes), caption])


def _without_time(cells: Sequence[str]) -> list[str]:
    return [*cells[:TIME], *cells[TIME + 1 :]]


def _set(options: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}={json.dumps(value)}`" for key, value in options.items())


def _row(method: str, page: str, metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> list[str]:
    label = f"**{method}**" if method == page else f"[{method}]({method}.md)"
    accuracy = metrics["accuracy"]
    return [
        label,
        _interval(accuracy["last"], 0),
        _interval(accuracy["bwt"], 0),
        _interval(accuracy["learning_accuracy"], 0),
        _interval(metrics["nll"]["last"], 1),
        "" if (time := relative_time(cost)) is None else f"{time:.1f}",
        f"{cost['state_bytes'] / 1e6:.1f}",
    ]


def _interval(value: Mapping[str, Any], digits: int) -> str:
    mean = value["mean"]
    if mean is None or math.isnan(mean):
        return "not measured"
    low, high = (f"{value[k]:.{digits}f}" for k in ("low", "high"))
    return f"{mean:.{digits}f} [{low}, {high}]".replace("-0 ", "0 ")
