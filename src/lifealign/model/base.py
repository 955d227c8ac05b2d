"""The base model: a local path, a hub id or a name of `wheels`; identified by the hash of its weights."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lifealign.core.config import ModelConfig
from lifealign.core.errors import ConfigError, ModelError
from lifealign.core.files import cache_dir
from lifealign.core.hub import from_cache_if_unreachable
from lifealign.model.adapter_files import refuse_adapter
from lifealign.model.base_files import check_folder, check_loaded
from lifealign.model.checkpoint import (
    check_code,
    check_quantisation,
    code_sha256,
    one_line,
    quantisation_of,
    read_checkpoint,
    refuse_quantised,
)
from lifealign.model.encoding import Template
from lifealign.model.frozen_linear import LEAD, freeze, product, seconds
from lifealign.model.names import WHEELS, check_local
from lifealign.model.template_probe import check_template
from lifealign.model.vocabulary import check_vocabulary
from lifealign.model.wheels import quiet, wheel_model


@dataclass(frozen=True)
class BaseModel:
    """A frozen base model in eval mode with its tokenizer.

    Attributes:
        model: the transformers model; no parameter requires a gradient.
        tokenizer: its tokenizer.
        template: `chat` or `plain`, resolved.
        identity: name, revision, dtype and SHA-256 of the weights; what a memory is tied to. `code`: SHA-256 of the
            checkpoint's own Python files, if they were run. `quantisation`: its settings, if the weights are quantised.
        notes: sentences about the checkpoint that the user should see once.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    identity: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def positions(self) -> int:
        """Length of the longest text that the model accepts, in tokens."""
        text = self.model.config.get_text_config(decoder=True)  # of a multimodal model: the part that reads text
        found = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
        return next((int(length) for length in found if length), sys.maxsize)


def load_base(config: ModelConfig) -> BaseModel:
    """Load the base model, frozen and in eval mode, on the CPU.

    Raises:
        ModelError: the model does not exist or cannot be loaded; names what was tried.
    """
    check_local(config, adapter=False)  # its weights are in the memory from the first commit on
    path = wheel_model(config.name) if config.name in WHEELS else config.name
    local = Path(path).expanduser()
    if local.exists() and config.revision is not None:
        raise ConfigError(
            f"model.revision={config.revision!r} is for hub ids, but {config.name!r} is a local model; remove it"
        )
    refuse_adapter(path, config.revision)
    source = str(local) if local.exists() else config.name
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[resolve_dtype(config.dtype)]
    if local.is_dir():
        check_folder(config.name, local)
    with nullcontext() if local.exists() else from_cache_if_unreachable():
        files = read_checkpoint(source, config.revision)
        quantisation = quantisation_of(files, local)
        if quantisation is not None:
            check_quantisation(config.name, quantisation)
        model, tokenizer = _read(config, source, dtype, quantisation)
    code = code_sha256(model, model.config, tokenizer)
    notes = check_code(config.name, files, config.trust_remote_code, code)
    freeze(model)
    model.eval()
    template = config.template
    if template == "auto":
        template = "chat" if tokenizer.chat_template else "plain"
    if template == "chat" and tokenizer.chat_template:  # without one, the encoder says that it is missing
        check_template(config.name, tokenizer)
    notes += check_vocabulary(config.name, model, tokenizer, template)
    commit = getattr(model.config, "_commit_hash", None) or config.revision
    weights = weights_sha256(local) if local.is_dir() else f"hub:{config.name}@{commit}"
    identity = {
        "model": config.name,
        "revision": config.revision,
        "weights": weights,
        "dtype": str(dtype).removeprefix("torch."),
        "model_type": model.config.model_type,
        **({} if quantisation is None else {"quantisation": quantisation}),
        **({} if code is None else {"code": code}),
    }
    return BaseModel(model, tokenizer, template, identity, tuple(notes))


def _read(
    config: ModelConfig, source: str, dtype: torch.dtype, quantisation: Mapping[str, Any] | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer from the files at `source`.

    Raises:
        ModelError: they cannot be read, or a package that they need is missing.
    """
    # Never left out: without it, transformers asks on the terminal whether to run a checkpoint's code.
    options = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    try:
        with quiet():
            # Weights that are pickled could run a program.
            model, info = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # for files of others, the libraries raise whatever their code comes upon
        if quantisation is not None:
            raise refuse_quantised(config.name, quantisation, one_line(error)) from error
        if not config.trust_remote_code and "trust_remote_code" in str(error):
            raise ModelError(
                f"base model {config.name!r} needs Python code of its own, which is not run: read the code in the checkpoint, "
                "and set model.trust_remote_code=true if you trust it"
            ) from error
        first = one_line(error)[:300]
        if not isinstance(error, OSError | ValueError | RuntimeError | ImportError):
            first = f"{type(error).__name__}: {first}"  # the text of others, such as KeyError, is hardly a sentence
        if "ignore_mismatched_sizes" in str(error):
            first = "its weights do not have the sizes that its config.json gives; give the files that belong together"
        known = ", ".join(sorted(WHEELS))
        raise ModelError(
            f"base model {config.name!r} cannot be loaded: {first}; allowed: a local directory, a hub id, or one of {known}"
        ) from error
    if quantisation is None:  # packed weights have other names
        check_loaded(config.name, info)
    return model, tokenizer


def resolve_dtype(dtype: str) -> str:
    """Resolve `auto` to float32 or bfloat16, whichever this device multiplies faster (bfloat16 needs a clear lead)."""
    if dtype != "auto":
        return dtype
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    speed = {}
    for kind in (torch.float32, torch.bfloat16):
        x, weight = torch.ones(256, 576, dtype=kind), torch.ones(576, 576, dtype=kind)
        speed[kind] = 1 / seconds(functools.partial(product, x, weight))
    return "bfloat16" if speed[torch.bfloat16] > LEAD * speed[torch.float32] else "float32"


def weights_sha256(directory: Path) -> str:
    """SHA-256 over the weight files and the config of a local model; cached by path, size and modification time."""
    files = sorted(directory.glob("*.safetensors")) or sorted(directory.glob("*.bin"))
    files += [f for f in (directory / "config.json",) if f.is_file()]  # its rope or norm settings change every value
    key = json.dumps([[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files])
    name = hashlib.sha256(key.encode()).hexdigest()
    remembered = cache_dir() / "hashes" / name
    if remembered.is_file() and len(text := remembered.read_text().strip()) == 64:
        return text
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    remembered.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=remembered.parent, delete=False) as out:
        out.write(digest.hexdigest())
    Path(out.name).replace(remembered)
    return digest.hexdigest()
