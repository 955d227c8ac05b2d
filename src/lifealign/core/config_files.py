"""Read and merge YAML settings of every kind, and explain their mistakes. Imports no torch."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from lifealign.core.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads 5e-4 (no dot) as a number, not as the string of YAML 1.1. Quoted values stay strings."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """Parse YAML text into plain values.

    Raises:
        yaml.YAMLError: the text is not valid YAML.
        ValueError, RecursionError: an impossible date, or nesting too deep.
    """
    return yaml.load(text, _Loader)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the keys and values of a file; {} for an empty one.

    Raises:
        ConfigError: the file cannot be read, or holds anything else; names the file and, if known, the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        tree = parse_yaml(text)
        json.dumps(tree, default=str, skipkeys=True)  # a ValueError if an alias is inside the value it refers to
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, RecursionError) as error:  # an impossible date, or nesting too deep
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
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
    for item in error.errors(include_url=False):
        location = (*prefix, *(str(part) for part in item["loc"]))
        key = ".".join(location) or "(whole file)"
        if item["type"] == "extra_forbidden":
            fields = _fields_at(model, item["loc"][:-1])
            known = ", ".join(sorted(fields)) or "none"
            yield f"{where}: {key}: unknown key{nearest(location[-1], fields)}; allowed here: {known}"
        else:
            got = item.get("input")
            shown = "" if isinstance(got, Mapping | BaseModel) or item["type"] == "missing" else f", got {got!r}"
            yield f"{where}: {key}: {item['msg'].removeprefix('Value error, ')}{shown}"


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
