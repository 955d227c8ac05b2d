"""Which records may be used: those with consent, of a model, and of a time. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from lifealign.core.errors import ConfigError
from lifealign.data.collecting.parts import Given, Record, at
from lifealign.data.turns import number_of
from lifealign.data.vote_words import words

YES = words("true yes y 1 on granted given agreed accepted allowed consented opt-in opted-in opt_in opted_in optin")
"""Texts that are consent; any other text is not."""
BELOW = ("", "metadata.", "request.metadata.", "request.", "response.metadata.", "trace.", "trace.metadata.", "fields.")
"""Where a field of consent is looked for."""


@dataclass(frozen=True)
class Consent:
    """The condition of ``--consent``.

    Attributes:
        field: dotted path, also below `metadata`.
        value: text that the field must hold; None: it must mean yes.
    """

    field: str
    value: str | None = None

    @classmethod
    def parse(cls, text: str) -> Consent:
        """The condition of ``FIELD`` or ``FIELD=VALUE``.

        Raises:
            ConfigError: no field or no value.
        """
        name, equals, value = text.partition("=")
        if not name.strip() or (equals and not value):
            raise ConfigError(f"--consent {text!r}: expected FIELD or FIELD=VALUE, e.g. consent=training")
        return cls(name.strip(), value if equals else None)

    def __str__(self) -> str:
        return self.field if self.value is None else f"{self.field}={self.value}"

    def found(self, record: Record) -> Any:
        """What the record holds in the field; None if nothing."""
        values = (at(record, prefix + self.field) for prefix in BELOW)
        return next((value for value in values if value is not None), None)

    def given(self, record: Record) -> bool:
        """Whether the record has the consent."""
        return self._holds(self.found(record))

    def _holds(self, value: Any) -> bool:
        if isinstance(value, list):
            return self.value is not None and any(self._holds(one) for one in value)
        text = str(value).casefold().strip() if isinstance(value, str | bool | int | float) else None
        if self.value is not None:
            return text == self.value.casefold()
        return text in YES or text == "1.0"


@dataclass(frozen=True)
class Selection:
    """Conditions on records; None: no condition.

    Attributes:
        consent: of the person.
        since: the earliest time.
        until: the first time that is too late.
        model: name of the model that answered.
    """

    consent: Consent | None = None
    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None

    def refused(self, record: Record) -> str | None:
        """Why a record may not be used, before anything else of it is read; None if it may."""
        if self.consent is not None and not self.consent.given(record):
            return f"no consent: `{self.consent.field}` is {'missing' if self.consent.found(record) is None else 'not given'}"
        return None

    def outside(self, given: Given) -> str | None:
        """Why an answer is not among those that are wanted; None if it is."""
        if self.model is not None and self.model not in given.models:
            return f"of another model than {self.model}" if given.models else "of no model that is named"
        if self.since is None and self.until is None:
            return None
        when = time_of(given.time)
        if when is None:
            return "without a time that can be read"
        if self.since is not None and when < self.since:
            return "before --since"
        return "after --until" if self.until is not None and when >= self.until else None

    def to_json(self) -> dict[str, Any]:
        """Plain values of the conditions that are set."""
        found = {
            "consent": str(self.consent) if self.consent else None,
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "model": self.model,
        }
        return {name: value for name, value in found.items() if value is not None}


def parse_bound(text: str, option: str) -> datetime:
    """A date or a time as the bound of a span; a date of ``--until`` takes in the whole day. UTC where no zone is given.

    Raises:
        ConfigError: neither a date nor a time in ISO 8601.
    """
    try:
        if len(text) == 10:
            day = datetime.combine(date.fromisoformat(text), time(), UTC)
            return day + timedelta(days=1) if option == "--until" else day
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text!r}: expected a date such as 2026-03-31, or a time in ISO 8601") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def time_of(value: Any) -> datetime | None:
    """A time from ISO 8601 text, or seconds or milliseconds since 1970; None for anything else. UTC where no zone is given."""
    for found in _times(value):
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def _times(value: Any) -> Iterator[datetime]:
    number = number_of(value)
    try:
        if number is not None:
            yield datetime.fromtimestamp(number / 1000 if number > 1e11 else number, UTC)
        elif isinstance(value, str):
            yield datetime.fromisoformat(value.strip())
        elif isinstance(value, datetime):
            yield value
    except (ValueError, OverflowError, OSError):
        return
