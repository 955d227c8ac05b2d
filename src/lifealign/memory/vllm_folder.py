"""What vLLM needs beside a merged model: the processor files of a multimodal base, and the command that serves it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

COMMAND = "serve.sh"
PROCESSORS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
"""Files of a multimodal checkpoint that neither its model nor its tokenizer writes."""


def copy_processors(source: str, revision: str | None, folder: Path) -> list[str]:
    """Copy the processor files of a base model, if it has any, and return their names."""
    from transformers.utils import cached_file

    from lifealign.model.wheels import quiet

    copied = []
    for name in PROCESSORS:
        try:
            with quiet():
                found = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            found = None
        if found is not None and Path(found).is_file():
            shutil.copyfile(found, folder / name)
            copied.append(name)
    return copied


def vllm_command(out: Path, name: str, chat: bool, copied: Sequence[str]) -> tuple[str, list[str]]:
    """The script that serves a folder, and what a user must know of it.

    Args:
        out: where the folder will be, for the note.
        name: that the server gives the model.
        chat: the memory was trained with a chat template.
        copied: processor files in the folder.
    """
    options = f"--served-model-name {shlex.quote(name)} --dtype float32"
    text = f'#!/bin/sh\n# Written by lifealign; untested with vLLM.\nexec vllm serve "$(dirname "$0")" {options} "$@"\n'
    notes = [
        f"serve it with: vllm serve {shlex.quote(str(out))} {options} (untested: vLLM was not run)",
        "the weights are float32, as they were compared; --dtype bfloat16 rounds them, and a small learnt change can be lost",
    ]
    if not chat:
        notes.append(
            "no chat template: the memory was trained on plain text with the roles User and Assistant; use /v1/completions"
        )
    if copied:
        notes.append(f"copied from the base model: {', '.join(copied)}")
    return text, notes
