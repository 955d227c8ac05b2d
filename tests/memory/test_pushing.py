"""Push an export to a hub: a double that speaks its API, called by the real command and the real client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lifealign.core.errors import ModelError
from lifealign.memory import exporting, pushing
from lifealign.memory.api import Memory
from lifealign.testing import tiny_config, tiny_task
from support.adapters import IDS, stock_logits
from support.hub import TOKEN, HubDouble, hub_double


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Push = Callable[..., Done]


@pytest.fixture(scope="module")
def memory(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memories") / "support"
    made = Memory.create(path, tiny_config(tiny_dir, path, "train.learning_rate=5e-2"))
    for name in ("tone", "form"):
        made.learn(tiny_task(name))
    return path


@pytest.fixture
def hub() -> Iterator[HubDouble]:
    with hub_double() as double:
        yield double


def push(hub: HubDouble, *arguments: str | Path, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HOME": str(Path(os.environ["LIFEALIGN_CACHE"]) / "hf")} | ({"HF_TOKEN": token} if token else {})
    command = [sys.executable, "-m", "lifealign", "push", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture
def push_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Push:
    """`push` in this process, which need not start anew: exit code, standard output and standard error."""
    from huggingface_hub import constants

    from lifealign.cli.app import main

    def call(hub: HubDouble, *arguments: str | Path, token: str | None = TOKEN) -> Done:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", token or "")
        monkeypatch.setattr(sys, "argv", ["lifealign", "push", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return Done(int(ended.value.code or 0), shown.out, shown.err)

    return call


def test_a_private_repository_is_made_and_answers_as_the_memory(
    hub: HubDouble, memory: Path, tiny_dir: Path, tmp_path: Path, push_here: Push
) -> None:
    done = push(hub, memory, "team/support", "--as-of", "tone", "--message", "June", "--json")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    repo = hub.repos["team/support"]
    assert (repo["private"], repo["messages"]) == (True, ["June"])
    assert reply["private"] and reply["created"] and reply["task"] == "0001-tone"
    assert reply["url"].startswith(f"{hub.url}/team/support/commit/")
    assert set(reply["files"]) == set(repo["files"]) >= {"adapter_model.safetensors", "README.md", "export.json"}
    assert "at `0001-tone`" in repo["files"]["README.md"].decode()
    for path, data in repo["files"].items():
        (tmp_path / path).write_bytes(data)
    right = Memory.open(memory).export(tmp_path / "right", as_of="tone")
    assert torch.equal(stock_logits(tiny_dir, tmp_path, IDS), stock_logits(tiny_dir, right, IDS))
    assert any("names its base model by a path of this machine" in note for note in reply["notes"])

    again = push_here(hub, memory, "team/support", "--format", "merged")
    assert again.returncode == 0, again.stderr
    assert "there before" in again.stdout and "(private" in again.stdout
    assert "model.safetensors" in repo["files"] and "adapter_model.safetensors" not in repo["files"]
    assert repo["messages"][1] == "lifealign: 0002-form (merged)"


def test_a_public_repository_is_made_only_when_asked_for(hub: HubDouble, memory: Path, push_here: Push) -> None:
    hub.repos["team/open"] = {"private": False, "files": {"notes.md": b"ours"}, "messages": []}
    refused = push_here(hub, memory, "team/open")
    assert refused.returncode == 2 and "is public: everyone could read" in refused.stderr
    assert hub.repos["team/open"]["messages"] == [] and "create" not in hub.calls
    assert push_here(hub, memory, "team/open", "--public").returncode == 0
    assert hub.repos["team/open"]["files"]["notes.md"] == b"ours"  # a file of theirs stays
    assert push_here(hub, memory, "team/new", "--public").returncode == 0
    assert hub.repos["team/new"]["private"] is False


@pytest.mark.parametrize(
    ("arguments", "token", "refuse", "message"),
    [
        (("team/x",), None, {}, "no token for the hub: run `hf auth login`, or set HF_TOKEN"),
        (("team/x",), "hf_wrong", {}, "the hub refused (401)"),
        (("a/b/c",), TOKEN, {}, "give OWNER/NAME"),
        (("team/x", "--format", "exe"), TOKEN, {}, "--format 'exe': allowed: peft, merged"),
        (("team/x", "--as-of", "gone"), TOKEN, {}, "gone"),
        (("team/x",), TOKEN, {"create": 403}, "the hub refused (403): create refused"),
        (("team/x",), TOKEN, {"commit": 403}, "the hub refused (403): commit refused"),
    ],
)
def test_a_refusal_is_one_message(
    arguments: tuple[str, ...],
    token: str | None,
    refuse: dict[str, int],
    message: str,
    hub: HubDouble,
    memory: Path,
    push_here: Push,
) -> None:
    hub.refuse = refuse
    done = push_here(hub, memory, *arguments, token=token)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert all(repo["files"] == {} for repo in hub.repos.values())


def test_a_hub_that_does_not_answer_is_one_message(memory: Path, push_here: Push) -> None:
    gone = HubDouble()
    gone.url = "http://127.0.0.1:9"
    done = push_here(gone, memory, "team/x")
    assert done.returncode == 2 and "does not answer" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_nothing_is_pushed_if_the_export_is_not_right(
    hub: HubDouble, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Offered(pushing.Hub):
        def __init__(self, repo: str) -> None:
            self.repo = repo

        def check(self, public: bool) -> bool:
            return True

        def push(self, *arguments: object) -> tuple[str, bool]:
            raise AssertionError("pushed")

    def lost(work: exporting.Work) -> exporting.Written:
        trained = exporting._write_peft(work)[0]
        return trained, [base + 0.0 for base in work.before.base]  # the base model's answers: a silent no-op

    monkeypatch.setattr(pushing, "Hub", Offered)
    monkeypatch.setitem(exporting.FORMATS, "peft", lost)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="the learnt change is lost"):
        Memory.open(memory).push("team/x")
