"""Configuration of `lifealign judge`: the judges, the rubrics and the limit of cost. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from lifealign.core.broken_rule import rule_of
from lifealign.core.config import Frozen
from lifealign.core.config_files import explain, read_yaml, together

KEY_ENV = "LIFEALIGN_JUDGE_KEY"
"""Not OPENAI_API_KEY: a key for one server is not sent to another unless the user asks for it."""

PANEL = "panel"
"""Name of the rows for several judges together, in place of a judge's name."""


_PUBLIC = ("model", "name", "price_in", "price_out")
"""Settings of a judge whose values a message may repeat."""


class EndpointConfig(Frozen):
    """One judge: a model behind an OpenAI-compatible server."""

    url: str
    """Base URL, e.g. `http://127.0.0.1:8000/v1`; http or https, without user, password or query."""
    model: str = Field(pattern=r"\S")
    """Name of the model on that server."""
    name: str | None = Field(None, pattern=r"\S")
    """Name of the judge in the judgements, unique among the judges; none: the model's name."""
    key_env: str = Field(KEY_ENV, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key; if it is not set, no key is sent."""
    price_in: float | None = Field(None, ge=0)
    """Price per million prompt tokens; none: not known. 0 <= price_in."""
    price_out: float | None = Field(None, ge=0)
    """Price per million completion tokens, in the same currency; none: not known. 0 <= price_out."""

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a base URL such as http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            # The value is not shown: it may hold a key.
            raise ValueError("must not hold user, password, query or fragment; put the key into the environment")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _both_prices(self) -> EndpointConfig:
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("give both price_in and price_out, or neither")
        return self

    @property
    def label(self) -> str:
        """Name of the judge in the judgements."""
        return self.name or self.model

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Price of a call; None if the prices are not known."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


class JudgeConfig(Frozen):
    """Settings of `lifealign judge`."""

    judges: tuple[EndpointConfig, ...] = Field(min_length=1)
    """One judge, or a panel of several that all judge every answer."""
    rubric: str | None = None
    """Name or YAML file of the rubric for tasks that are not in `rubrics`; none: the built-in rubric of each known task."""
    rubrics: dict[str, str] = Field({})
    """Task -> name or YAML file of its rubric."""
    mode: Literal["absolute", "pairwise"] | None = None
    """Score each answer, or compare each answer with the baseline's; none: the rubric's mode."""
    baseline: str | None = None
    """Answers that the others are compared with in pairwise mode: a source, `@POINT`, `SOURCE@POINT` or `reference`; none: the source of the first answer."""
    concurrency: int = Field(8, ge=1)
    """Calls at once, for each judge. 1 <= concurrency."""
    timeout: float = Field(120.0, gt=0)
    """Seconds after which a call is given up. 0 < timeout."""
    tries: int = Field(5, ge=1)
    """Tries for a call that gets no answer, with growing pauses between them. 1 <= tries."""
    max_tokens: int = Field(512, ge=1)
    """Longest reply of a judge, in tokens. 1 <= max_tokens."""
    max_cost: float | None = Field(None, ge=0)
    """Limit of the judgements' total cost, earlier runs included; needs prices. 0 <= max_cost."""
    cache: str | None = None
    """SQLite file for all calls and replies; none: `judge.sqlite` in the user's cache directory."""

    @model_validator(mode="after")
    def _fits(self) -> JudgeConfig:
        names = [judge.label for judge in self.judges]
        if len(set(names)) != len(names) or PANEL in names:
            raise ValueError(f"judges' names must be unique and not {PANEL!r}, got {names}; set judges[].name")
        unpriced = [judge.label for judge in self.judges if judge.price_in is None]
        if self.max_cost is not None and unpriced:
            raise ValueError(f"max_cost needs the prices of every judge (price_in, price_out); missing: {unpriced}")
        if self.mode == "absolute" and self.baseline is not None:
            raise ValueError("baseline has no effect in mode absolute; set mode to pairwise or leave baseline out")
        return self


def read_judge_config(path: Path | None, above: Mapping[str, Any]) -> JudgeConfig:
    """Read a YAML file, if any, and override it with values of the command line.

    Raises:
        ConfigError: lists every mistake with its key; never shows a value that may be or hold a judge's key.
    """
    tree = {**(read_yaml(path) if path is not None else {}), **above}
    try:
        return JudgeConfig.model_validate(tree)
    except ValidationError as error:
        where = str(path) if path else "judge"
        raise together(_without_keys(error, where)) from None


def _without_keys(error: ValidationError, where: str) -> Sequence[str]:
    lines = []
    for line, item in zip(explain(error, where, JudgeConfig, ()), error.errors(include_url=False), strict=True):
        location = item["loc"]
        if location[:1] == ("judges",) and location[-1] not in _PUBLIC:
            line = line.partition(", got ")[0]
        if location[-1:] == ("key_env",):
            place = line.partition(": " + rule_of(item))[0]
            line = f"{place}: give the name of the environment variable, never the key itself"
        lines.append(line)
    return lines
