"""The base of every configuration model."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Frozen(BaseModel):
    """Base of every configuration model: immutable, unknown keys refused, field docstrings kept as descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    _newer: ClassVar[frozenset[str]] = frozenset()
    """Keys left out at their default: memories and studies that do not use them keep their bytes and their ids."""

    @model_serializer(mode="wrap")
    def _without_unused_newer_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        unused = self._unused_newer_keys()
        return {key: value for key, value in values.items() if key not in unused}

    def _unused_newer_keys(self) -> set[str]:
        """The newer keys that do nothing, those at their default."""
        return {key for key in self._newer if getattr(self, key) == type(self).model_fields[key].default}
