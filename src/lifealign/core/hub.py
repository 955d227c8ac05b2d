"""Which names mean a path and which the hub, and whether the hub can be reached. Imports no torch."""

from __future__ import annotations

import functools
import importlib
import os
import re
import socket
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

OF_ROWS = r"\.[A-Za-z]\w*$"
"""A suffix. It starts with a letter, so that a hub id such as owner/set-v1.5 stays one."""
OF_MODELS = r"\.(safetensors|bin|gguf|pt|pth|json|ya?ml|zip|tar|gz)$"
"""Suffixes that no repository of a model has; names such as owner/model.v2 are hub ids."""
SECONDS = 3.0
"""Longest wait for the hub to answer at all."""


def looks_local(name: str, suffix: str = OF_MODELS) -> bool:
    """Whether a name means a path and never the hub.

    It does if it ends like a file, exists, is not ``name`` or ``owner/name``, or begins with a folder that is here.
    """
    if re.search(suffix, name) or re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) is None:
        return True
    return Path(name).expanduser().exists() or ("/" in name and Path(name.partition("/")[0]).is_dir())


@functools.cache
def unreachable() -> str | None:
    """Why the hub cannot be reached, found out once for a process; None: it can, or nobody may ask it.

    A look-up of its name and one connection; libraries would try again for half a minute.
    """
    if any(
        os.environ.get(v, "").upper() in ("1", "ON", "YES", "TRUE") for v in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    ):
        return None
    if any(os.environ.get(v) for v in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return None  # the proxy knows
    parts = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), SECONDS).close()
    except OSError as error:
        return f"the hub ({parts.hostname}) cannot be reached: {error.strerror or error}"
    return None


@contextmanager
def from_cache_if_unreachable(*libraries: str) -> Iterator[None]:
    """Let libraries read their cache alone while the hub cannot be reached.

    Args:
        libraries: modules with a constant `HF_HUB_OFFLINE`, besides that of `huggingface_hub`.
    """
    with ExitStack() as stack:
        if unreachable() is not None:
            from unittest import mock  # with asyncio: every command would pay for it

            for name in ("huggingface_hub.constants", *libraries):
                stack.enter_context(mock.patch.object(importlib.import_module(name), "HF_HUB_OFFLINE", True))
        yield


def in_cache(repo: str, file: str, revision: str | None = None) -> bool:
    """Whether a file of a repository of the hub is in the local cache."""
    import huggingface_hub

    return isinstance(huggingface_hub.try_to_load_from_cache(repo, file, revision=revision), str)
