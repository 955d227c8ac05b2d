"""Answers, judges and a call of the command, for tests of judging."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from lifealign.cli.app import app
from lifealign.data.answers import AnswerRecord
from lifealign.data.tasks import Message
from lifealign.judging.llm.config import JudgeConfig, read_judge_config
from lifealign.judging.rubrics import load_rubric
from support.judge_server import JudgeServer

HELPFULNESS, SAFE = load_rubric("helpfulness"), load_rubric("safe")


def answer(text: str = "Blue.", *, source: str = "ours", number: int = 0, **more: Any) -> AnswerRecord:
    prompt = (Message("user", "Hello"), Message("assistant", "Hi!"), Message("user", f"What colour is sky {number}?"))
    given = {"task": "myths", "point": "now", "stage": 1, "reference": "It is blue.", **more}
    return AnswerRecord.of(given.pop("task"), prompt, text, source=source, **given)


def judges(server: JudgeServer | str, **more: Any) -> JudgeConfig:
    url = server if isinstance(server, str) else server.url
    return read_judge_config(None, {"judges": [{"url": url, "model": "m"}], **more})


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])
