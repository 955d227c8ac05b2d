"""Settings of a memory that exists: those that are fixed for its life, and those that a task may set anew; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, StoreError
from lifealign.memory.stored import run_config
from lifealign.model.adapter_files import CONFIG, adapter_files_sha256, split_adapter
from lifealign.model.names import with_local_path
from lifealign.store.reader import MemoryReader
from lifealign.strategies import STRATEGIES
from lifealign.strategies.configure import check_early, read_config

OF_A_TASK = ("max_length", "long_prompts", "reward_transform")
"""Keys of `data` that a task may set anew. Its rows are read and encoded with them for training and, ever after, for scores."""


def located(config: RunConfig) -> RunConfig:
    """The configuration with the whole path of a local base model, which is found from another folder too."""
    model = with_local_path(config.model)
    return config if model is config.model else config.model_copy(update={"model": model})


def check_same_model(own: RunConfig, given: RunConfig, path: Path) -> None:
    """Refuse a configuration with another base model than that of a memory.

    Raises:
        StoreError: names both.
    """
    here, there = located(own).model.name, located(given).model.name
    if here != there:
        raise StoreError(f"{path}: this memory's base model is {here!r}, the configuration has {there!r}")


def with_adapter_apart(config: RunConfig) -> RunConfig:
    """The configuration of a new memory with its base model and its adapter apart; see `adapter_files.split_adapter`."""
    model = split_adapter(config.model)
    return config if model is config.model else config.model_copy(update={"model": model})


def with_settings(own: RunConfig, settings: Sequence[str], path: Path) -> RunConfig:
    """A memory's configuration with ``KEY=VALUE`` settings for one task.

    Args:
        own: of the memory.
        settings: of the call.
        path: of the memory, for messages.

    Raises:
        ConfigError: a setting that is wrong, or that would make another memory.
    """
    check_settings(own, settings, path)
    own = located(own)
    return _as_decided(located(read_config(None, settings, own.model_dump(mode="json"), whole=True)), own)


def check_settings(own: RunConfig, settings: Sequence[str], path: Path) -> None:
    """Refuse what `with_settings` refuses, as far as declarations tell it; no strategy is imported."""
    for setting in settings:
        key, _, value = setting.partition("=")
        # Checked before its options are read as another strategy's; an unknown name is refused by `read_config`.
        if key == "strategy.name" and value in STRATEGIES and value != own.strategy.name:
            raise ConfigError(
                f"{path}: {key} is fixed for a memory's life: it is {own.strategy.name}, this call sets {value}"
            )
    own = located(own)
    config = _as_decided(located(check_early(None, settings, own.model_dump(mode="json"), whole=True)), own)
    for what in ("model", "lora", "data", "seed", "memory", "preset"):
        old, new = getattr(own, what), getattr(config, what)
        if what == "data":
            new_for_life = new.model_copy(update={key: getattr(old, key) for key in OF_A_TASK})
            if new_for_life == old:
                continue
        if old != new:
            raise ConfigError(f"{path}: {what} is fixed for a memory's life: it is {old}, this call sets {new}")


def settled(store: MemoryReader, config: RunConfig) -> RunConfig:
    """The configuration of a run on an existing memory, whose fixed settings must be the same.

    Raises:
        ConfigError: lists the keys that differ.
    """
    stored = located(run_config(store))
    config = _as_decided(config, stored)
    if config.model.adapter is not None:
        check_adapter(store, config.model.adapter)
    fixed = ("preset", "seed", "model", "lora", "data", "strategy", "sft", "train")
    differing = []
    for key in fixed:
        old, new = _plain(stored, key), _plain(config, key)
        if old != new:
            parts = [k for k in {**old, **new} if old.get(k) != new.get(k)] if isinstance(old, dict) else []
            if key == "data" and set(parts) <= set(OF_A_TASK):
                continue
            differing += [f"{key}.{k}: {old.get(k)!r} in the memory, {new.get(k)!r} here" for k in parts] or [
                f"{key}: {old!r} in the memory, {new!r} here"
            ]
    if differing:
        raise ConfigError(
            f"{store.path}: this memory was made with other settings; set them back or give another `memory` directory:\n  "
            + "\n  ".join(differing)
        )
    return config


def check_adapter(store: MemoryReader, source: str) -> None:
    """Refuse another adapter than the one that a memory began with; its files need not be there any more.

    Raises:
        ConfigError: the memory began without one, or with another.
    """
    own = store.identity.get("adapter")
    if own is None:
        raise ConfigError(
            f"{store.path}: this memory exists and began without an adapter, so it cannot take {source}; a memory takes an adapter "
            "when it is made: choose another directory for a new memory"
        )
    folder = Path(source).expanduser()
    other = adapter_files_sha256(folder) != own["sha256"] if (folder / CONFIG).is_file() else source != own["source"]
    if other:
        raise ConfigError(
            f"{store.path}: this memory began with the adapter {own['source']} (SHA-256 {own['sha256'][:12]}...), and {source} is "
            "another one, or was changed since; leave it out, or choose another directory for a new memory"
        )


def _as_decided(config: RunConfig, stored: RunConfig) -> RunConfig:
    """The configuration with what was decided when the memory was made, where it is left open."""
    if stored.model.adapter is not None:
        given = {key: getattr(config.lora, key) for key in config.lora.model_fields_set}
        config = config.model_copy(update={"lora": stored.lora.model_copy(update=given)})
        if config.model.adapter is None and config.model.name == stored.model.adapter:  # the folder gave both
            both = {"name": stored.model.name, "adapter": stored.model.adapter, "revision": stored.model.revision}
            config = config.model_copy(update={"model": config.model.model_copy(update=both)})
    undecided = {"dtype": "auto", "template_date": None}
    kept = {key: getattr(stored.model, key) for key, value in undecided.items() if getattr(config.model, key) == value}
    return config.model_copy(update={"model": config.model.model_copy(update=kept)})


def _plain(config: RunConfig, key: str) -> Any:
    value = getattr(config, key)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
