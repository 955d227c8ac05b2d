"""Each method is itself on a trained model: its signs are seen on SmolLM2, with a handful of rows of the planted suite.

A random model of two layers cannot show this: its features are not drawn to one direction, and hardly any loss falls.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.config import StreamConfig
from lifealign.data.load import load_stream
from lifealign.testing import tiny_config
from support.lives import learn, start

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("one_thread")]

THREE_LAYERS = "lora.target_modules=[layers.4.self_attn.q_proj, layers.14.self_attn.q_proj, layers.24.self_attn.q_proj]"
CASES: Mapping[str, tuple[int, int, Sequence[str]]] = {
    "l2p": (2, 6, ("train.learning_rate=1e-3", "train.epochs=1")),
    "inflora": (2, 3, (THREE_LAYERS, "lora.r=8", "lora.alpha=16", "train.learning_rate=1e-3", "train.epochs=1")),
    "ready2blend": (1, 4, ("train.epochs=5", "train.pairs_per_step=2", "train.warmup=0", "train.learning_rate=1e-3")),
}
"""Method -> number of tasks, rows of each, settings. Defaults of the method wherever a few steps allow it."""


@pytest.fixture(scope="session")
def real_dir(real_base: Any) -> Path:
    """The converted model in the user's cache; `real_base` has made it, or skipped the test."""
    from lifealign.model.wheels import wheel_model

    private = os.environ.pop("LIFEALIGN_CACHE", None)
    try:
        return wheel_model("smollm2-135m")
    finally:
        if private is not None:
            os.environ["LIFEALIGN_CACHE"] = private


@pytest.mark.parametrize("name", sorted(CASES))
def test_its_signs_are_seen(name: str, real_dir: Path, tmp_path: Path) -> None:
    count, rows, settings = CASES[name]
    sizes = {"train_rows": rows, "validation_rows": 1, "test_rows": 1}
    stream = load_stream(StreamConfig.model_validate({"name": "planted", "planted": sizes}), 0)
    tasks = [replace(t, validation=(), test=()) for t in stream.tasks[:count]]
    session, store = start(tiny_config(real_dir, tmp_path / "m", f"strategy.name={name}", *settings))
    store = learn(session, store, *tasks)
    told = [store.load_document(m, "diagnostics.json")["signs"] for m in store.lineage()[1:]]
    seen = {sign["key"]: sign["value"] for sign in told[-1]}
    assert session.strategy.signs and set(seen) == {sign.key for sign in session.strategy.signs}
    assert [s for signs in told for s in signs if s["holds"] is False] == []
    assert any(s["holds"] for signs in told for s in signs), "no sign was measured"
