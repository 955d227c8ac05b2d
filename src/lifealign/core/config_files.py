"""Read and merge YAML settings of every kind, and explain their mistakes. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lifealign.core.broken_rule import rule_of
from lifealign.core.errors import ConfigError
from lifealign.core.files import read_text
from lifealign.core.limits import SHOWN, shown
from lifealign.core.yaml_text import YamlError, parse_yaml

MISTAKES = 20
"""Most mistakes that a message lists."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the keys and values of a file; {} for an empty one.

    Raises:
        ConfigError: the file cannot be read, or holds anything else; names the file and, if known, the line.
    """
    text = read_text(path, ConfigError)
    try:
        tree = parse_yaml(text)
    except YamlError as error:
        line = "" if error.line is None else f":{error.line}"
        raise ConfigError(f"{path}{line}: not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected keys and values at the top, got {type(tree).__name__}")
    return tree


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `above` over `below`, key by key at every depth; lists are replaced as a whole."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nearest(name: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    """A hint for a message with the known name closest to an unknown one; "" if none is close."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def explain(error: ValidationError, where: str, model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[str]:
    """Yield one message for each mistake that pydantic found.

    Args:
        error: the mistakes.
        where: name of the file, with which each message begins.
        model: the validated model, for its known keys.
        prefix: keys above the model in its file.
    """
    for number, item in enumerate(error.errors(include_url=False)):
        location = (*prefix, *(str(part)[:SHOWN] for part in item["loc"]))
        key = ".".join(location) or "(whole file)"
        if number >= MISTAKES:  # `together` does not list it, and the best hint takes a while to find
            yield f"{where}: {key}"
            continue
        if item["type"] == "extra_forbidden":
            fields = _fields_at(model, item["loc"][:-1])
            known = ", ".join(sorted(fields)) or "none"
            yield f"{where}: {key}: unknown key{nearest(location[-1], fields)}; allowed here: {known}"
        else:
            got = item.get("input")
            value = "" if isinstance(got, Mapping | BaseModel) or item["type"] == "missing" else f", got {shown(got)}"
            yield f"{where}: {key}: {rule_of(item)}{value}"


def together(mistakes: Sequence[str]) -> ConfigError:
    """The error that lists mistakes, the first `MISTAKES` of them in full."""
    more = len(mistakes) - MISTAKES
    return ConfigError("\n".join([*mistakes[:MISTAKES], *([f"and {more} more mistakes"] if more > 0 else [])]))


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Field names of the model that `location` (a path of keys and list positions) leads to."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation if part in getattr(current, "model_fields", {}) else None
        current = next(iter(models_in(annotation)), None)
        if current is None:
            return []
    return list(current.model_fields)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from models_in(inner)
