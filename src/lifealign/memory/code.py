"""Outside code that a memory was made with: recorded, found again and compared. Imports no torch by itself.

Built-in methods are not recorded, so a memory made with them has the same bytes as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lifealign.core.config import RunConfig, StreamConfig
from lifealign.core.errors import ConfigError, StoreError
from lifealign.core.files import file_sha256
from lifealign.core.origin import described, find_file, is_file, is_reference, place, remedy
from lifealign.core.registry import Registry, take_over
from lifealign.data.formats import FORMATS
from lifealign.data.load import formats_used
from lifealign.data.suites.rules import CHECKERS, check_rule
from lifealign.evaluation.outside import is_here, named, recall, record_of, require
from lifealign.evaluation.records import read_records
from lifealign.store.reader import MemoryReader

CODE = "code"
"""Key of the record, in store.json and in a commit's `meta`; missing if all code is built in."""
REPLAY_SELECTOR = "replay selector"
"""Kind of `strategy.replay_select`, beside that of `data.select`, which comes from the same registry."""


def outside_code(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Kind -> origin, for the parts of a run that are not built in: strategy, losses, selectors.

    Args:
        config: a (checked) run configuration as plain values.
    """
    from lifealign.strategies import STRATEGIES
    from lifealign.training.losses import LOSSES, ObjectiveConfig
    from lifealign.training.selectors import SELECTORS
    from lifealign.training.sft_losses import SFT_LOSSES

    chosen = config["strategy"]
    used: dict[str, tuple[Registry[Any], str]] = {STRATEGIES.what: (STRATEGIES, chosen["name"])}
    if issubclass(STRATEGIES.find(chosen["name"]).Config, ObjectiveConfig):
        used[LOSSES.what] = LOSSES, chosen["loss"]
    used[SFT_LOSSES.what] = SFT_LOSSES, config["sft"].get("loss", "nll")
    used[SELECTORS.what] = SELECTORS, config["data"].get("select", "random")
    used[REPLAY_SELECTOR] = SELECTORS, chosen.get("replay_select", "random")
    found = {}
    for what, (registry, name) in used.items():
        if registry.is_outside(name):
            registry.find(name)  # the source of an entry point is known once it is loaded
            found[what] = {"name": name, **registry.origin(name).to_json()}
    return found


def data_code(stream: StreamConfig, seed: int) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Kind -> name -> origin, of the rules from outside that a stream's tasks name and the row formats that read its rows.

    Raises:
        ConfigError: a rule cannot be found or loaded; names its task.
    """
    for task in stream.tasks:
        check_rule(task.name, task.checker)
    rules = {task.checker for task in stream.tasks if task.checker is not None}
    return {
        CHECKERS.what: {n: CHECKERS.origin(n).to_json() for n in sorted(rules) if CHECKERS.is_outside(n)},
        FORMATS.what: formats_used(stream, seed),
    }


def find_code(identity: Mapping[str, Any], where: Path) -> list[str]:
    """Find the outside code that a memory was made with; returns one sentence for each change since.

    A file is looked for at its path when the memory was made, at its path relative to here, and by its name in the
    folders of `CODE_PATH`; one with the same content is preferred. A file inside the memory is never run.

    Raises:
        StoreError: it is missing or cannot be loaded; names the file or distribution, and how to provide it.
    """
    from lifealign.strategies import STRATEGIES

    registries: dict[str, Registry[Any]] = {STRATEGIES.what: STRATEGIES}
    records = identity.get(CODE, {})
    if "loss" in records:
        from lifealign.training.losses import LOSSES

        registries[LOSSES.what] = LOSSES
    if set(records) - set(registries):
        from lifealign.training.selectors import SELECTORS
        from lifealign.training.sft_losses import SFT_LOSSES

        registries |= {SFT_LOSSES.what: SFT_LOSSES, SELECTORS.what: SELECTORS, REPLAY_SELECTOR: SELECTORS}
    changed = []
    for what, record in records.items():
        registry, name = registries[what], record["name"]
        try:
            locate(registry, record, where)
            now = registry.origin(name) if registry.find(name) is not None else None
        except ConfigError as error:
            raise StoreError(
                f"{where}: its {what} {name!r} cannot be found or loaded: {error}\n"
                f"  it was made with {described(record)}; {remedy(record)}"
            ) from error
        assert now is not None
        changed += changes(f"{what} {name!r}", record, now.to_json())
    return changed


def find_scores(options: Mapping[str, Any], store: MemoryReader | None = None) -> dict[str, dict[str, Any]]:
    """Name -> what a record keeps, of each score and text metric from outside that can be found and loaded here.

    Args:
        options: the section `evaluate` as plain values.
        store: a memory whose records tell where a file was; it is looked for as in `find_code`.
    """
    seen = {} if store is None else recall(read_records(store))
    found = {}
    for _, registry, name in named(options):
        try:
            if store is not None and name in seen and is_here(name, seen[name]):
                locate(registry, {"name": name, **seen[name]["origin"]}, store.path)
            if name in registry and registry.is_outside(name):
                found[name] = record_of(registry, name)
        except ConfigError:
            continue  # `require` says what is wrong, where it is needed
    return found


def check_scores(config: RunConfig, store: MemoryReader | None = None) -> None:
    """Refuse a configuration whose scores or text metrics cannot be measured, before a model is loaded and trained.

    Raises:
        ConfigError: see `outside.require`.
    """
    find_scores(config.evaluate.model_dump(mode="json"), store)
    require(config.evaluate.text_metrics, config.evaluate.scores)


def changes(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A sentence if the source of some code differs from that of its record; `what` is the code's kind and name."""
    if then["sha256"] == now["sha256"]:
        return []
    files = [f for f in {**then["files"], **now["files"]} if then["files"].get(f) != now["files"].get(f)]
    versions = f", version {then['version']} then, {now['version']} now" if then["version"] != now["version"] else ""
    return [f"{what} has changed since this memory was made ({', '.join(files) or 'its source'}{versions})"]


def locate(registry: Registry[Any], record: Mapping[str, Any], where: Path) -> None:
    """Point a name at the file that fits best, or, if it was registered by call, at its code.

    Args:
        registry: of the code's kind.
        record: the code's name and origin.
        where: the memory's directory.

    Raises:
        ConfigError: the file is inside the memory.
    """
    name, path = record["name"], record["path"]
    reference = name if is_reference(name) else record["reference"]
    if not is_reference(name) and name not in registry and reference is not None:
        take_over({registry.group: {name: reference}})
    if reference is None or not is_file(file := reference.rpartition(":")[0]):
        return
    candidates = [p for p in (find_file(file), Path(path) if path else None) if p is not None and p.is_file()]
    inside = [p for p in candidates if p.resolve().is_relative_to(where.resolve())]
    if inside:
        raise ConfigError(f"{inside[0]} is inside the memory, and code in a memory is never run; move it elsewhere")
    same = [p for p in candidates if file_sha256(p) in record["files"].values()]
    if candidates:
        place(file, (same or candidates)[0])
