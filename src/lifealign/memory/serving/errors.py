"""Errors of the server in OpenAI's form, which its clients turn into exceptions."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that gets no answer.

    Attributes:
        status: HTTP status.
        message: one sentence for whoever sent the request.
        param: parameter that is wrong; None if it is none.
        code: machine-readable reason; None if there is none.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def to_json(self) -> dict[str, Any]:
        """The body of the response."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
