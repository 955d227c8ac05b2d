"""The rule that a value breaks, in our words: pydantic's sentences name its own types. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS: Mapping[str, str] = {
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "dict_type": "expected an object",
    "finite_number": "expected a finite number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "list_type": "expected a list",
    "mapping_type": "expected an object",
    "missing": "missing",
    "model_type": "expected an object",
    "string_type": "expected text",
    "string_unicode": "not valid Unicode (a lone surrogate)",
    "tuple_type": "expected a list",
    "literal_error": "allowed: {expected}",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} values",
    "too_short": "must have at least {min_length} values",
}
"""pydantic's type of a mistake -> the rule, with names from the mistake's context."""
BLANK = r"\S"
"""Pattern of texts that must not be blank."""


def rule_of(mistake: Mapping[str, Any]) -> str:
    """The broken rule, to follow the name of a field.

    Args:
        mistake: an entry of `pydantic.ValidationError.errors`.
    """
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind == "string_pattern_mismatch" and context["pattern"] == BLANK:
        return "must not be blank"
    if kind in WORDS:
        return WORDS[kind].format(**context)
    found: str = mistake["msg"].removeprefix("Value error, ")
    return found if kind == "value_error" else found[:1].lower() + found[1:]
