"""Mistakes that a user can make; each ends in one clear message and a non-zero exit code.

Anything that is not a `UserError` is a bug in lifealign and keeps its traceback.
"""

from __future__ import annotations

EXIT_USER_ERROR = 2
EXIT_GATE_FAILED = 3


class UserError(Exception):
    """A user's mistake; the message gives its place (file and row, or file and key), the value, and what is allowed."""

    exit_code = EXIT_USER_ERROR

    def __init__(self, message: str) -> None:
        """Bytes that are no text (a file name's, or half of a character) are written out, so that it can be printed."""
        super().__init__(message.encode("utf-8", "backslashreplace").decode())


class ConfigError(UserError):
    """A configuration or command-line value that cannot be used."""


class DataError(UserError):
    """Preference rows that cannot be used."""


class ModelError(UserError):
    """A base model or adapter that cannot be used."""


class JudgeError(UserError):
    """A judge, its answers or its record that cannot be used."""


class StoreError(UserError):
    """A memory that cannot be read, written or trusted."""


class TrainingError(UserError):
    """Training that cannot continue: a loss or gradient that is not finite."""
