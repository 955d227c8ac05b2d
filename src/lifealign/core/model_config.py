"""Configuration of the base model."""

from __future__ import annotations

from datetime import date
from typing import ClassVar, Literal

from pydantic import model_validator

from lifealign.core.frozen import Frozen


class ModelConfig(Frozen):
    """The base model."""

    _newer: ClassVar[frozenset[str]] = frozenset({"adapter", "adapter_rows", "template_date", "trust_remote_code"})
    name: str = "smollm2-135m"
    """Local path, hub id, or the name of a model installed as a wheel (`smollm2-135m`, `gemma3-270m`)."""
    revision: str | None = None
    """Hub revision (branch, tag or commit); for hub ids only."""
    adapter: str | None = None
    """Folder or hub id of a PEFT LoRA adapter of this model, which becomes the first task, `imported`. None: none."""
    adapter_rows: str | None = None
    """File or hub data set of the rows that `adapter` was trained on, for replay and scores. None: they are not known."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the base weights. `auto`: the faster of the two on this processor, as measured."""
    template: Literal["auto", "chat", "plain"] = "auto"
    """`chat`: the tokenizer's chat template. `plain`: role names and line breaks. `auto`: `chat` if available."""
    template_date: date | None = None
    """Date (YYYY-MM-DD) that a chat template writes as today's, for a memory's whole life; None: when it is made."""
    trust_remote_code: bool = False
    """Run the Python code that a checkpoint brings along (`auto_map` in its `config.json`). Read that code first."""

    @model_validator(mode="after")
    def _rows_of_an_adapter(self) -> ModelConfig:
        if self.adapter_rows is not None and self.adapter is None:
            raise ValueError(f"adapter_rows={self.adapter_rows} are rows of an adapter, but no adapter is given")
        return self
