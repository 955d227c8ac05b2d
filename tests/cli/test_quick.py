"""Mistakes are told, and small memories shown, before torch is imported: it takes seconds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lifealign.core import hub
from lifealign.core.errors import ConfigError, ModelError
from lifealign.core.model_config import ModelConfig
from lifealign.memory import early, exporting
from lifealign.model.names import check_local
from lifealign.store.heldout import heldout_lines
from lifealign.store.layout import ADAPTER, DATA, DIAGNOSTICS, HELDOUT, TRAINING
from lifealign.store.writer import MemoryStore
from lifealign.strategies import STRATEGIES
from lifealign.strategies._declared import declared
from lifealign.strategies.configure import check_early, read_config
from support.paths import ROOT
from support.rows import make_task

CHILD = """
import io, json, resource, sys
from contextlib import redirect_stderr, redirect_stdout
from lifealign.cli.app import main
found = []
for call in json.load(sys.stdin):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime if found else 0.0
    sys.argv = ["lifealign", *call]
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code
    heavy = sorted({"torch", "transformers", "peft", "datasets", "pandas", "scipy", "fastapi", "ray", "jinja2"} & sys.modules.keys())
    seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    found.append([code, out.getvalue(), err.getvalue(), heavy, seconds])
json.dump(found, sys.stdout)
"""
"""Runs calls of the command line one after another; what each ended with, what it imported, and its CPU time."""

SHOWN, MISTAKE = 1.0, 2.5
"""CPU seconds that a call may take. The promises are 0.5 and 1.5 s; the rest is for a slower machine."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory of one task, and files with mistakes."""
    path = tmp_path_factory.mktemp("quick")
    config = read_config(None, base={"memory": "m", "model": {"name": "tiny"}}).model_dump(mode="json")
    weights = {ADAPTER: {"w": torch.zeros(2)}, "state": {}}
    store = MemoryStore.create(
        path / "m",
        {
            "config": config,
            "strategy": config["strategy"],
            "seed": 0,
            "lora": {},
            "base": {"weights": "w"},
            **dict.fromkeys(("tokenizer_sha256", "template", "template_sha256"), "x"),
        },
        weights,
    )
    task = replace(make_task("tone", train=4, test=2), validation=())
    with store.writer():
        store.commit(
            "tone",
            members=["tone"],
            tensors=weights,
            documents={DATA: {"rows": 4}, DIAGNOSTICS: {}},
            lines={HELDOUT: heldout_lines([task]), TRAINING: []},
            seed=0,
            config=config,
        )
    row = json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"})
    (path / "rows.jsonl").write_text(f"{row}\n" * 3)
    (path / "bad.jsonl").write_text(f"{row}\n{{")
    (path / "run.yaml").write_text("stream: {planted: {train_rows: 2}}")
    (path / "rows.yaml").write_text("stream: {tasks: [{name: a, train: {path: none.jsonl}}]}")
    (path / "data").mkdir()
    return path


LEARN = ("learn", "new", "rows.jsonl", "--name", "a", "--base-model", "smollm2-135m")
CALLS: list[tuple[tuple[str, ...], str]] = [
    (("log", "m"), "tone"),
    (("show", "m", "tone"), "tone"),
    (("verify", "m"), "checksum"),
    (("tag", "m"), "no tags"),
    (("run", "none.yaml"), "none.yaml: no such file"),
    (("run", "run.yaml", "--set", "train.epoch=3"), "did you mean 'epochs'?"),
    (("run", "run.yaml", "--set", "strategy.replay_shar=1"), "did you mean 'replay_share'?"),
    (("run", "run.yaml", "--set", "strategy.name=replai"), "did you mean 'replay'?"),
    (("run", "run.yaml", "--set", "strategy.beta=-1"), "strategy.beta: must be greater than 0"),
    (("run", "rows.yaml"), "none.jsonl: no such file"),
    ((*LEARN[:4], "Refund: Policy", *LEARN[5:]), "task name 'Refund: Policy'"),
    ((*LEARN[:2], "bad.jsonl", *LEARN[3:]), "bad.jsonl:2: not valid JSON"),
    ((*LEARN[:6], "data/none"), "base model 'data/none': no such directory"),
    (("learn", "m", "rows.jsonl", "--name", "b", "--set", "lora.r=3"), "lora is fixed for a memory's life"),
    (("learn", "m", "data/none", "--name", "b"), "data/none: no such file"),
    (("evaluate", "m", "--task", "nope"), "no task 'nope'"),
    (("evaluate", "m", "--split", "validation"), "has no validation rows"),
    (("generate", "m", "--prompt", "x", "--as-of", "nope"), "no task 'nope'; known: base, tone (0001-tone)"),
    (("generate", "m", "--prompt", "x", "--weight", "nope=0"), "no task 'nope'"),
    (("compose", "m", "--weight", "nope=0"), "no task 'nope'"),
    (("related", "m", "bad.jsonl"), "bad.jsonl:2: not valid JSON"),
    (("export", "m", "--out", "m"), "not an empty directory"),
    (("export", "m", "--out", "new", "--format", "zip"), "allowed: peft, merged"),
    (("answers", "m", "--out", "a.jsonl", "--at", "nope"), "no task 'nope'"),
    (("drift", "m", "--as-of", "nope"), "no task 'nope'"),
    (("drift", "m", "--measure", "shfit"), "did you mean 'shift'?"),
    (("drift", "m", "--gate", "kl_totl<=1"), "unknown summary 'kl_totl'"),
    (("withdraw", "m", "nope"), "no task 'nope' to withdraw"),
    (("recover", "m", "--task", "nope"), "no task 'nope' to recover"),
    (("study", "none.yaml"), "none.yaml: no such file"),
    (("report", "none", "--out", "r"), "none: no such directory"),
    (("check-data", "bad.jsonl"), "bad.jsonl:2: not valid JSON"),
]


def test_mistakes_and_small_memories_need_no_torch(folder: Path) -> None:
    """All calls in two processes, in which the first call pays for what all of them import."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for code, limit in ((0, SHOWN), (2, MISTAKE)):
        calls = [(call, text) for call, text in CALLS if (text in ("tone", "checksum", "no tags")) == (code == 0)]
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=json.dumps([call for call, _ in calls]),
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            check=True,
        )
        for (call, text), (ended, out, err, heavy, seconds) in zip(calls, json.loads(done.stdout), strict=True):
            assert (ended, heavy) == (code, []), (call, out, err)
            assert text in (out if code == 0 else err), (call, err)
            assert err.count("\n") <= 2, (call, err)
            assert seconds < limit, (call, seconds)


def test_a_heavy_import_is_seen(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import scipy" + CHILD],
        input=json.dumps([("log", "m")]),
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    assert json.loads(done.stdout)[0][3] == ["scipy"]


# --- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in STRATEGIES if not STRATEGIES.is_outside(n)])
def test_options_are_declared_as_they_are(name: str) -> None:
    own, found = STRATEGIES[name].Config, declared(str(STRATEGIES.origin(name).reference))
    assert found.model_fields.keys() == own.model_fields.keys()
    found.model_validate(own().model_dump(mode="json"))
    found.model_validate(dict.fromkeys(own.model_fields))  # null: filled in by the strategy itself
    plain = {k for k, f in found.model_fields.items() if f.annotation == own.model_fields[k].annotation}
    by_registry = {"loss", "replay_select"}  # a registry imports what it has
    assert plain >= own.model_fields.keys() - by_registry


@pytest.mark.parametrize(
    "setting",
    ["strategy.replay_shar=1", "strategy.replay_share=2", "strategy.reference=none", "strategy.route=7", "seed=-1"],
)
def test_a_mistake_has_the_same_message_early(setting: str) -> None:
    with pytest.raises(ConfigError) as first:
        check_early(None, [setting])
    with pytest.raises(ConfigError, match=re.escape(str(first.value))):
        read_config(None, [setting])


def test_every_format_of_exports_is_known_early() -> None:
    assert tuple(exporting.FORMATS) == early.FORMATS


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./model", True),
        ("/no/model", True),
        ("~/none", True),
        ("model.gguf", True),
        ("a/b/c", True),
        ("src/none", True),
        ("owner/name", False),
        ("Qwen/Qwen2.5-0.5B", False),
        ("gpt2", False),
    ],
)
def test_a_path_is_not_asked_for_on_a_hub(name: str, path: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    for name_of in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name_of, raising=False)
    hub.unreachable.cache_clear()
    try:
        message = "no such directory" if path else "not in the local cache, and the hub .127.0.0.1. cannot be reached"
        with pytest.raises(ModelError, match=message):
            check_local(ModelConfig(name=name))
    finally:
        hub.unreachable.cache_clear()
