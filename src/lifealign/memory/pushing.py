"""Push an export to a model hub. It is written and checked here first, so nothing is pushed that does not answer right."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.utils
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, RepositoryNotFoundError

from lifealign.core.errors import ConfigError, StoreError
from lifealign.memory.early import which_format
from lifealign.store.manifest import TaskManifest

CONFIG = "adapter_config.json"

OURS = (
    "adapter_*",
    "adapter.gguf",
    "model*.safetensors",
    "model.safetensors.index.json",
    "model.gguf",
    "Modelfile",
    "serve.sh",
)
"""Files of an export of any format; those of an earlier push are removed, so that no two formats mix."""


@dataclass(frozen=True)
class Pushed:
    """What was pushed.

    Attributes:
        repo: id of the repository.
        url: of the commit.
        private: whether the repository is private.
        created: whether it was made now.
        task: directory of the point that was exported.
        format: of the export.
        files: that are in the commit.
        notes: what whoever loads it must know.
    """

    repo: str
    url: str
    private: bool
    created: bool
    task: str
    format: str
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        made, seen = "made" if self.created else "there before", "private" if self.private else "public"
        return [
            f"pushed {self.task} as {self.format} to {self.repo} ({seen}, {made}): {len(self.files)} files",
            f"  {self.url}",
            *self.notes,
        ]


class Hub:
    """A repository of models on the hub that `HF_ENDPOINT` names.

    Args:
        repo: id, as ``owner/name``.

    Raises:
        ConfigError: not the id of a repository, or no token is there.
    """

    def __init__(self, repo: str) -> None:
        try:
            huggingface_hub.utils.validate_repo_id(repo)
        except HFValidationError as error:
            raise ConfigError(f"repository {repo!r}: {error}; give OWNER/NAME") from None
        token = huggingface_hub.get_token()
        if not token:
            raise ConfigError(
                "no token for the hub: run `hf auth login`, or set HF_TOKEN to a token with write access; nothing was pushed"
            )
        endpoint = os.environ.get("HF_ENDPOINT") or None
        self.repo = repo
        self._api = huggingface_hub.HfApi(endpoint=endpoint, token=token)

    def visibility(self) -> bool | None:
        """Whether the repository is private; None: there is none yet."""
        with self._asking():
            try:
                return bool(self._api.repo_info(self.repo).private)
            except RepositoryNotFoundError as error:
                if error.response is not None and error.response.status_code == 401:
                    raise
                return None

    def check(self, public: bool) -> bool:
        """Whether the repository is to be made; refuses one that is public where that is not wanted.

        Raises:
            ConfigError: see above.
            StoreError: the hub does not answer, or refuses the token.
        """
        private = self.visibility()
        if private is False and not public:
            raise ConfigError(
                f"repository {self.repo} is public: everyone could read what is pushed; pass --public to push all the same, or choose "
                "another repository"
            )
        return private is None

    def push(self, folder: Path, public: bool, created: bool, message: str) -> tuple[str, bool]:
        """Make the repository if there is none, and put the files of a folder there in one commit.

        Returns:
            The commit's address, and whether the repository is private.

        Raises:
            StoreError: the hub does not answer, or refuses; an earlier state of the repository is as it was.
        """
        with self._asking():
            if created:
                self._api.create_repo(self.repo, private=not public)
            done = self._api.upload_folder(
                repo_id=self.repo, folder_path=folder, commit_message=message, delete_patterns=list(OURS)
            )
            return str(done.commit_url), bool(self._api.repo_info(self.repo).private)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except HfHubHTTPError as error:
            code = None if error.response is None else error.response.status_code
            reason = error.server_message or str(error).splitlines()[0]
            advice = "; the token needs write access to this repository" if code in (401, 403) else ""
            raise StoreError(f"repository {self.repo}: the hub refused ({code}): {reason}{advice}") from error
        except (HTTPError, OSError) as error:
            raise StoreError(
                f"repository {self.repo}: the hub at {self._api.endpoint} does not answer: {str(error).splitlines()[0]}; "
                "push again when it does"
            ) from error


def push(
    export: Callable[[Path], Path], repo: str, public: bool, message: str | None, point: TaskManifest, form: str
) -> Pushed:
    """Export to a folder that is removed afterwards, and push it.

    Args:
        export: writes an export to a folder and checks it.
        repo: id of the repository.
        public: whether all may read it.
        message: of the commit; None: names the memory's task.
        point: of the memory's life, for messages.
        form: format of the export.

    Raises:
        ConfigError: no token, or not the repository that is meant.
        ModelError: the export does not answer as the memory does; nothing is pushed.
        StoreError: the hub does not answer, or refuses.
    """
    which_format(form)
    hub = Hub(repo)
    created = hub.check(public)  # before the work of an export
    with tempfile.TemporaryDirectory(prefix="lifealign-push-") as scratch:
        folder = export(Path(scratch) / "export")
        url, private = hub.push(folder, public, created, message or f"lifealign: {point.directory} ({form})")
        files = tuple(sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()))
        notes = _notes(folder)
    return Pushed(repo, url, private, created, point.directory, form, files, notes)


def _notes(folder: Path) -> tuple[str, ...]:
    """What whoever loads the export elsewhere must know."""
    if not (folder / CONFIG).is_file():
        return ()
    base = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    if not Path(base).exists():
        return ()
    return (
        f"warning: the adapter names its base model by a path of this machine ({base}); elsewhere it is loaded on that model by "
        "hand, or push --format merged",
    )
