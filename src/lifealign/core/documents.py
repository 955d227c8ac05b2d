"""Documents at the door: bounded types for their schemas, and one message for a document of another shape.

Each kind of document has its schema near the code that owns it, as a `Document` or a checked dataclass. `check` compares
a value with it, strictly: a number is no text, true is no number, and nothing is converted. Imports no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, Strict, TypeAdapter, ValidationError, create_model

from lifealign.core import limits
from lifealign.core.broken_rule import rule_of
from lifealign.core.errors import StoreError, UserError

T = TypeVar("T")

Name = Annotated[str, Field(max_length=1000)]
"""A name, a path or a setting; at most 1,000 characters."""
Text = Annotated[str, Field(max_length=10_000_000)]
"""Any text; at most ten million characters."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A checksum, 64 hex digits."""
Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of things; 0 to 2^53."""
Number = Annotated[float, Field(ge=-1e100, le=1e100)]
"""A finite number, small enough for its square to be finite: -1e100 to 1e100."""
Stored = Annotated[float, Field(allow_inf_nan=True)]
"""A number as `encode_json` writes it: NaN and infinities too, where a value is missing."""
Rate = Annotated[float, Field(ge=0, le=1)]
"""A share, 0 to 1."""
LIST = 1_000_000
"""Longest list."""


def _raw_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text")
    return value


StoredText = Annotated[str, PlainValidator(_raw_text)]
"""Text of a memory's own rows: older ones may have half a character (a lone surrogate), which `Text` refuses."""

Plain = Strict(False)
"""Lets a tuple be read from a list; its items stay strict."""


class Document(BaseModel):
    """Base of the schemas: strict and finite. Keys that a schema does not name are not read, so they may be there."""

    # Built at first use: each command reads few of the kinds, and all of them together take a tenth of a second.
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False, defer_build=True)


@functools.cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    """The checker of a schema; of a dataclass, one that takes an object with exactly its fields."""
    if not is_dataclass(shape):
        return TypeAdapter(shape)
    hints = get_type_hints(shape, include_extras=True)
    given: dict[str, Any] = {}
    for one in fields(shape):
        required = one.default is MISSING and one.default_factory is MISSING
        default = ... if required else one.default
        if one.default_factory is not MISSING:
            default = Field(default_factory=one.default_factory)
        given[one.name] = (hints[one.name], default)
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return TypeAdapter(create_model(str(getattr(shape, "__name__", shape)), __config__=config, **given))


def check(shape: type[T], value: Any, where: str, error: type[UserError] = StoreError) -> T:
    """A value as its schema reads it.

    Args:
        shape: a `Document`, a dataclass whose annotations are its schema, or a type annotation.
        value: plain values, as JSON gives them.
        where: file and line, with which the message begins.
        error: class of the error.

    Raises:
        UserError: `error`; names the first field of another shape, what it holds and what is allowed.
    """
    try:
        found = _adapter(cast(Hashable, shape)).validate_python(value)
    except ValidationError as mistakes:
        raise error(f"{where}: {mistake(mistakes)}") from None
    checked: T = shape(**dict(found)) if is_dataclass(shape) else found
    return checked


def mistake(mistakes: ValidationError) -> str:
    """The first mistake: the field, the rule that it breaks, and its value."""
    item = mistakes.errors(include_url=False)[0]
    field = ".".join(shown(part, 60).strip("'") for part in item["loc"])
    rule = rule_of(item)
    got = "" if item["type"] in ("missing", "extra_forbidden") else f", got {shown(item.get('input'))}"
    return f"{field + ': ' if field else ''}{rule}{got}"


def shown(value: Any, most: int = 80) -> str:
    """A value for a message, cut to a length that can be read; a list or an object is named by its size."""
    if isinstance(value, Mapping):
        return f"an object of {len(value)} keys"
    if isinstance(value, list | tuple) and len(value) > 3:
        return f"a list of {len(value)} values"
    return limits.shown(value, most - 5)  # quotes and the three dots
