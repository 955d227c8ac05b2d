"""The settings of every configuration model as tables: key, default, meaning and range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from lifealign.core.config import RunConfig, StrategyChoice
from lifealign.core.config_files import models_in
from lifealign.core.presets import DEFAULT, PRESETS
from lifealign.judging.llm.config import JudgeConfig
from lifealign.strategies import STRATEGIES
from lifealign.studies.config import StudyConfig
from site_text import escape, table

MODELS: Mapping[str, type[BaseModel]] = {"run": RunConfig, "study": StudyConfig, "judge": JudgeConfig}


class Setting(NamedTuple):
    """One key of a configuration.

    Attributes:
        key: dotted; `[]` stands for one element of a list.
        default: as it is written in YAML, or "required".
        text: the field's docstring: meaning, unit and range.
    """

    key: str
    default: str
    text: str


def shown(default: Any) -> str:
    """A default as YAML writes it."""
    if default is None:
        return "none"
    if isinstance(default, tuple):
        return "[" + ", ".join(map(str, default)) + "]"
    return str(default).lower() if isinstance(default, bool) else str(default)


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Every field that is no section of its own, sections included."""
    for name, field in model.model_fields.items():
        inner = next((m for m in models_in(field.annotation) if m is not StrategyChoice), None)
        if inner is not None:
            many = "[]" if "tuple" in str(field.annotation) else ""
            yield from settings(inner, f"{prefix}{name}{many}.")
        elif f"{prefix}{name}" != "strategy":
            default = "required" if field.is_required() else shown(field.default)
            section = PRESETS[DEFAULT].sections.get(prefix.rstrip("."), {})
            if name in section:
                default = f"{shown(section[name])} (paper: {default})"
            if f"{prefix}{name}" == "preset":
                default = DEFAULT
            yield Setting(f"{prefix}{name}", default, field.description or "")


def presets_table() -> str:
    """What `preset: lifelong` sets, beside the bare default, which `preset: paper` leaves."""
    preset, bare = PRESETS["lifelong"], RunConfig()
    rows = []
    for section, values in preset.sections.items():
        fields = type(getattr(bare, section)).model_fields
        rows += [(f"`{section}.{key}`", shown(value), shown(fields[key].default)) for key, value in values.items()]
    for name, options in preset.options.items():
        fields = STRATEGIES[name].Config.model_fields
        rows += [(f"`strategy.{key}` of `{name}`", shown(v), shown(fields[key].default)) for key, v in options.items()]
    return table(("key", "lifelong", "paper"), rows)


def settings_table(model: str, section: str = "") -> str:
    """The table of a model's settings.

    Args:
        model: a key of `MODELS`.
        section: a top-level key, for the settings below it; "top": those that are in no section; "": all.
    """
    found = list(settings(MODELS[model]))
    if section == "top":
        found = [s for s in found if "." not in s.key]
    elif section:
        found = [s for s in found if s.key.startswith(f"{section}.")]
    return setting_rows(found)


def setting_rows(found: list[Setting]) -> str:
    """A table of these settings.

    Raises:
        ValueError: there is none, or one has no docstring.
    """
    if not found or any(not s.text for s in found):
        raise ValueError(f"no settings, or one without a docstring: {[s.key for s in found]}")
    return table(
        ("key", "default", "meaning and range"), ((f"`{s.key}`", escape(s.default), escape(s.text)) for s in found)
    )
