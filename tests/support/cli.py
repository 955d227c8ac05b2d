"""The command line on a stand-in memory that records what it is asked."""

from __future__ import annotations

import json
import math
from typing import ClassVar

from typer.testing import CliRunner

from lifealign.cli.app import app
from lifealign.core.config import ModelConfig, RunConfig
from lifealign.core.errors import StoreError
from lifealign.data.prompts import CutAnswer
from lifealign.evaluation.differences import PointDifference, ScoreDifference
from lifealign.evaluation.gates import check_gates


class Evaluation:
    summary: ClassVar = {
        "accuracy": {
            "last": {"value": 80.0, "low": 75.0, "high": 85.0},
            "bwt": {"value": -1.5},
            "ap": {"value": math.nan},
            "task:tone": {"value": 80.0, "low": 75.0, "high": 85.0, "task": "tone"},
            "min": {"value": 80.0, "low": 75.0, "high": 85.0, "task": "tone"},
            "drop": {"value": 10.0, "low": 0.0, "high": 20.0, "task": "tone"},
        }
    }

    def to_json(self):
        cell = {"value": 80.0, "low": 75.0, "high": 85.0, "rows": 20}
        return {"after": "0002-style", "split": "test", "tasks": {"tone": {"accuracy": cell}}, "unknown": math.nan}

    def lines(self, *, every=False):
        return ["accuracy 80.0"]


DIFFERENCE = PointDifference(
    "0001-tone",
    "0002-style",
    "test",
    {"tone": {"accuracy": ScoreDifference(90.0, 80.0, -10.0, -20.0, 0.0, 20, [], [{"row": 7, "prompt": "hi"}])}},
    {"law|x": "learnt after 0001-tone, and not scored before"},
)


class Result:
    def __init__(self, what):
        self.what = what

    def to_json(self):
        return {"what": self.what, "overlap": math.nan}

    def lines(self):
        return [self.what]


class TaskResult:
    name, directory, seconds, scores = "tone", "0001-tone", 2.5, {"tone.accuracy": 75.0}
    notes = ("old: update taken out",)

    def to_json(self):
        return {"name": self.name}

    def lines(self, style, *, every=False):
        return [f"  {name}: {value:.2f}" for name, value in self.scores.items()]


class FakeMemory:
    """Records calls; `problems` and `failure` decide what it answers."""

    calls: list[tuple]
    failure: BaseException | None = None
    problems: list[str]

    def __init__(self, path, config=None):
        self.path, self.config = path, config or RunConfig(model=ModelConfig(name="smollm2-135m"))

    @classmethod
    def create(cls, path, config, *, first=None, progress=None):
        cls.calls.append(("create", path, config))
        path.mkdir(parents=True, exist_ok=True)
        (path / "HEAD").write_text("{}")
        return cls(path, config)

    @classmethod
    def open(cls, path):
        if cls.failure is not None:
            raise cls.failure
        if not (path / "HEAD").exists():
            raise StoreError(f"{path}: no memory")
        return cls(path)

    def check_new(self, name, supersedes=None, settings=()):
        pass

    def learn(self, task, *, settings=(), note=None, progress=None):
        self.calls.append(("learn", task, settings) if note is None else ("learn", task, settings, note))
        print("a library that prints")
        progress.say("working")
        return TaskResult()

    def score_notes(self):
        return []

    def evaluate(
        self,
        tasks=None,
        *,
        split="test",
        as_of=None,
        generations=None,
        text_metrics=None,
        scores=None,
        guard_text=None,
        guard_choices=None,
        one_adapter=False,
        progress=None,
    ):
        self.calls.append(
            ("evaluate", tasks, split, as_of, generations, text_metrics, scores, guard_text, guard_choices, one_adapter)
        )
        return Evaluation()

    def tasks(self, as_of=None, *, with_retired=False):
        return ["tone", "style"] if as_of is None else ["tone"]

    def check(self, gates, *, split=None, against=None, no_value="fail", keep=False, one_adapter=False):
        self.calls.append(("check", split, against, no_value, *(["one"] if one_adapter else [])))
        return check_gates(gates, Evaluation.summary, no_value=no_value, tasks=2, since=against or "")

    def card(self, as_of=None):
        return "# model\n"

    def diff(self, a, b, split=None, *, one_adapter=False):
        self.calls.append(("diff", a, b, split, *(["one"] if one_adapter else [])))
        return DIFFERENCE

    def generate(self, prompts, **options):
        options.pop("progress")
        self.calls.append(("generate", prompts, options))
        return [(CutAnswer if t[-1].content == "long" else str)(f"<{t[-1].content}>") for t in prompts]

    def export(self, out, *, format=None, merged=False, as_of=None, gguf_type=None):
        self.calls.append(("export", out, format, merged, as_of, gguf_type))
        out.mkdir(exist_ok=True)
        report = {"format": "merged" if merged else format or "peft", "notes": ["loaded again"]}
        (out / "export.json").write_text(json.dumps(report))
        return out

    def related(self, rows, **options):
        self.calls.append(("related", rows, {k: v for k, v in options.items() if k != "progress"}))
        return Result("related")

    def compose(self, weights, **options):
        self.calls.append(("compose", weights, {k: v for k, v in options.items() if k != "progress"}))
        return Result("composed")

    def log(self):
        entry = {"directory": "0001-tone", "created": "2030-01-01", "bytes": 2_500_000, "head": False, "current": True}
        entry |= {"tags": ["production", "v1"], "note": "rows of March\nby the help desk"}
        entry |= {"members": ["tone"], "retires": []}
        head = {**entry, "directory": "0002-style", "head": True, "tags": [], "note": None, "retires": ["tone"]}
        return [entry, {**entry, "directory": "0002-old", "current": False, "tags": ["old"], "note": None}, head]

    def show(self, name):
        cells = {
            "scores": {"tone": {"accuracy": 1100 / 12, "nll": math.nan}},
            "score_rows": {"tone": {"accuracy": 12, "nll": 0}},
        }
        meta = {"members": ["tone"], "tags": [], "note": "why", "created": "2030-01-01", "parent": None, "seed": 3}
        return {"directory": f"0001-{name}", **meta, "meta": {}, "config": {}, **cells, "order": (1, 2)}

    def verify(self, *, deep=False):
        return self.problems

    def rollback(self, name):
        self.calls.append(("rollback", name))
        return f"0001-{name}"

    def withdraw(self, name, *, note=None):
        self.calls.append(("withdraw", name, note))
        return Result("withdrawn")

    def recover(self, task, **options):
        self.calls.append(("recover", task, {k: v for k, v in options.items() if k != "progress"}))
        return Result("recovered")

    def tags(self):
        entry = {"directory": "0001-tone", "created": "2030-01-01", "current": True}
        return {"production": entry, "old": {**entry, "directory": "0002-old", "current": False}}

    def tag(self, task, name):
        self.calls.append(("tag", task, name))
        return f"0001-{task}", {"production": "0002-old", "v1": f"0001-{task}"}.get(name)

    def untag(self, name):
        self.calls.append(("untag", name))
        return "0001-tone"


def lifealign(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
