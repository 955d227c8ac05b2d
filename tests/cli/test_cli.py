"""The command line without a model: speed, exit codes, one message a mistake, exactly one JSON document.

The commands that need a memory talk to a stand-in here, which records what it is asked; the real memory is tested end
to end elsewhere.
"""

from __future__ import annotations

import errno
import json
import math
import os
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from lifealign.cli.app import app, main
from lifealign.core.config import ModelConfig, RunConfig
from lifealign.core.errors import StoreError
from lifealign.data.tasks import Message

COMMANDS = (
    "run",
    "learn",
    "evaluate",
    "check-data",
    "report",
    "log",
    "show",
    "verify",
    "rollback",
    "export",
    "generate",
    "related",
    "compose",
)


class Evaluation:
    summary: ClassVar = {
        "accuracy": {
            "last": {"value": 80.0, "low": 75.0, "high": 85.0},
            "bwt": {"value": -1.5},
            "ap": {"value": math.nan},
        }
    }

    def to_json(self):
        return {"scores": {"accuracy": math.nan}}

    def lines(self):
        return ["accuracy 80.0"]


class Result:
    def __init__(self, what):
        self.what = what

    def to_json(self):
        return {"what": self.what, "overlap": math.nan}

    def lines(self):
        return [self.what]


class TaskResult:
    name, directory, seconds, scores = "tone", "0001-tone", 2.5, {"tone.accuracy": 75.0}

    def to_json(self):
        return {"name": self.name}


class FakeMemory:
    """Records calls; `problems` and `failure` decide what it answers."""

    calls: list[tuple]
    failure: BaseException | None = None
    problems: list[str]

    def __init__(self, path, config=None):
        self.path, self.config = path, config or RunConfig(model=ModelConfig(name="smollm2-135m"))

    @classmethod
    def create(cls, path, config):
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

    def learn(self, task, *, settings=(), progress=None):
        self.calls.append(("learn", task, settings))
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
        progress=None,
    ):
        self.calls.append(
            ("evaluate", tasks, split, as_of, generations, text_metrics, scores, guard_text, guard_choices)
        )
        return Evaluation()

    def generate(self, prompts, **options):
        options.pop("progress")
        self.calls.append(("generate", prompts, options))
        return [f"<{turns[-1].content}>" for turns in prompts]

    def export(self, out, *, merged=False, as_of=None):
        self.calls.append(("export", out, merged, as_of))
        return out

    def related(self, rows, **options):
        self.calls.append(("related", rows, {k: v for k, v in options.items() if k != "progress"}))
        return Result("related")

    def compose(self, weights, **options):
        self.calls.append(("compose", weights, {k: v for k, v in options.items() if k != "progress"}))
        return Result("composed")

    def log(self):
        entry = {"directory": "0001-tone", "created": "2030-01-01", "bytes": 2_500_000, "head": False, "current": True}
        head = {**entry, "directory": "0002-style", "head": True}
        return [entry, {**entry, "directory": "0002-old", "current": False}, head]

    def show(self, name):
        return {"task": name, "scores": {"accuracy": math.nan}, "order": (1, 2)}

    def verify(self):
        return self.problems

    def rollback(self, name):
        self.calls.append(("rollback", name))
        return f"0001-{name}"


@pytest.fixture
def fake(monkeypatch):
    module = types.ModuleType("lifealign.memory.api")
    memory = type("Memory", (FakeMemory,), {"calls": [], "problems": [], "failure": None})
    module.Memory = memory
    monkeypatch.setitem(sys.modules, "lifealign.memory.api", module)
    configure = types.ModuleType("lifealign.strategies.configure")

    def read_config(path, settings, base=None):
        from lifealign.core.config import load_config

        return load_config(path, settings, None, base)

    configure.read_config = read_config
    monkeypatch.setitem(sys.modules, "lifealign.strategies.configure", configure)
    monkeypatch.setitem(sys.modules, "lifealign.memory.learning", types.ModuleType("lifealign.memory.learning"))
    return memory


@pytest.fixture
def memory(tmp_path, fake):
    path = tmp_path / "memory"
    path.mkdir()
    (path / "HEAD").write_text("{}")
    return path


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"q{i}", "chosen": "yes", "rejected": "no"}) + "\n" for i in range(10))
    )
    return path


def lifealign(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# --- start-up ---------------------------------------------------------------------------------------------------------


def test_help_is_fast_and_imports_no_heavy_module():
    program = (
        "import sys\nfrom lifealign.cli.app import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'datasets', 'accelerate', 'pydantic', 'rich'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, f"imported at start: {done.stderr}"
        assert "check-data" in done.stdout
    # The promise is 0.5 s; half a second more for a machine that does other things meanwhile.
    assert statistics.median(seconds) < 1.0


def test_the_installed_command_answers():
    command = Path(sys.executable).parent / "lifealign"
    if not command.exists():
        pytest.skip("the package is not installed, only importable")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lifealign 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command):
    result = lifealign(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


# --- exit codes and messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("learn",),
        ("evaluate", "m", "--generations", "-1"),
        ("generate", "m", "--batch-size", "0"),
        ("log", "m", "--verbose"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments):
    result = lifealign(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage" in result.stderr


def test_a_mistake_is_one_message_on_stderr(tmp_path, fake):
    result = lifealign("log", tmp_path)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"lifealign: {tmp_path}: no memory\n")


def test_a_mistake_with_json_is_still_one_document(tmp_path, fake):
    result = lifealign("log", tmp_path, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {"error": f"{tmp_path}: no memory", "exit_code": 2}


def test_a_bug_keeps_its_traceback(memory, fake):
    fake.failure = ZeroDivisionError("a bug")
    result = lifealign("log", memory)
    assert isinstance(result.exception, ZeroDivisionError)


def test_stopping_is_130_and_says_how_to_go_on(memory, fake):
    fake.failure = KeyboardInterrupt()
    result = lifealign("evaluate", memory)
    assert result.exit_code == 130
    assert result.stderr == "lifealign: stopped; run the same command again to go on\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_is_no_bug(memory, fake, number):
    fake.failure = OSError(number, os.strerror(number), "/some/file")
    result = lifealign("export", memory, "--out", "x")
    assert result.exit_code == 2
    assert result.stderr == f"lifealign: /some/file: {os.strerror(number)}\n"


def test_another_system_error_is_a_bug(memory, fake):
    fake.failure = OSError(errno.EBADF, "bad descriptor")
    assert isinstance(lifealign("log", memory).exception, OSError)


# --- learn ------------------------------------------------------------------------------------------------------------


def test_learn_creates_a_memory_on_the_base_model(tmp_path, fake, rows):
    path = tmp_path / "new"
    result = lifealign(
        "learn",
        path,
        rows,
        "--name",
        "tone",
        "--base-model",
        "smollm2-135m",
        "--set",
        "train.epochs=3",
        "--set",
        "seed=4",
    )
    assert result.exit_code == 0, result.stderr
    (_, where, config), (_, task, settings) = fake.calls
    assert where == path
    assert (config.memory, config.model.name, config.train.epochs, config.seed) == (str(path), "smollm2-135m", 3, 4)
    assert settings == ["train.epochs=3", "seed=4"]
    assert task.name == "tone"
    assert len(task.train) + len(task.test) == 10
    assert task.test
    assert "tone.accuracy: 75.00" in result.stdout


def test_learn_into_an_existing_memory_needs_no_base_model(memory, fake, rows):
    assert lifealign("learn", memory, rows, "--name", "tone").exit_code == 0
    assert [call[0] for call in fake.calls] == ["learn"]


def test_learn_uses_the_test_file(memory, fake, rows, tmp_path):
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"prompt": "other", "chosen": "yes", "rejected": "no"}))
    assert lifealign("learn", memory, rows, "--name", "tone", "--test", test).exit_code == 0
    ((_, task, _),) = fake.calls
    assert [row.prompt[0].content for row in task.test] == ["other"]
    assert len(task.train) == 10


def test_learn_hands_on_what_the_task_asks_for(memory, fake, rows):
    assert lifealign("learn", memory, rows, "--name", "tone", "--requirement", "Be kind.").exit_code == 0
    assert fake.calls[0][1].requirement == "Be kind."
    result = lifealign("learn", memory, rows, "--name", "tone", "--requirement", "  ")
    assert result.exit_code == 2 and "task requirement: String should match pattern" in result.stderr


def test_learn_without_memory_and_base_model_is_refused(tmp_path, fake, rows):
    for path in (tmp_path / "none", tmp_path / "empty"):
        result = lifealign("learn", path, rows, "--name", "tone")
        assert result.exit_code == 2
        assert f"{path}: there is no memory here; give --base-model" in result.stderr
        (tmp_path / "empty").mkdir(exist_ok=True)
    assert fake.calls == []


def test_learn_with_another_base_model_is_refused(memory, fake, rows):
    result = lifealign("learn", memory, rows, "--name", "tone", "--base-model", "gemma3-270m")
    assert result.exit_code == 2
    assert "base model is 'smollm2-135m', got --base-model 'gemma3-270m'" in result.stderr
    assert fake.calls == []


def test_learn_with_two_names_for_the_base_model_is_refused(tmp_path, fake, rows):
    result = lifealign("learn", tmp_path / "m", rows, "--name", "a", "--base-model", "x", "--set", "model.name=y")
    assert result.exit_code == 2
    assert "'x' and --set model.name=y disagree" in result.stderr


def test_a_local_base_model_may_be_named_in_two_ways(tmp_path, fake, rows, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "HEAD").write_text("{}")
    monkeypatch.chdir(tmp_path)
    config = RunConfig(model=ModelConfig(name=str(tmp_path / "model")))
    monkeypatch.setattr(fake, "open", classmethod(lambda cls, path: cls(path, config)))
    assert lifealign("learn", "memory", rows, "--name", "tone", "--base-model", "model").exit_code == 0


def test_rows_that_cannot_be_used_leave_no_memory_behind(tmp_path, fake):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": \n')
    result = lifealign("learn", tmp_path / "m", bad, "--name", "tone", "--base-model", "smollm2-135m")
    assert result.exit_code == 2
    assert "bad.jsonl" in result.stderr
    assert fake.calls == []
    assert not (tmp_path / "m").exists()


def test_json_is_the_only_thing_on_stdout(memory, fake, rows):
    result = lifealign("learn", memory, rows, "--name", "tone", "--json")
    assert json.loads(result.stdout) == {"name": "tone"}
    assert "a library that prints" in result.stderr
    assert "working" in result.stderr


# --- evaluate and gates -----------------------------------------------------------------------------------------------


def test_evaluate_passes_its_options_on(memory, fake):
    arguments = ("--task", "a", "--task", "b", "--split", "validation", "--as-of", "a", "--generations", "4")
    arguments += (
        "--text-metric",
        "chrf",
        "--text-metric",
        "bleu",
        "--score",
        "mine.py:mine",
        "--guard-text",
        "t.txt",
        "--guard-choices",
        "q.jsonl",
    )
    assert lifealign("evaluate", memory, *arguments).exit_code == 0
    expected = (
        "evaluate",
        ["a", "b"],
        "validation",
        "a",
        4,
        ["chrf", "bleu"],
        ["mine.py:mine"],
        Path("t.txt"),
        Path("q.jsonl"),
    )
    assert fake.calls == [expected]


def test_evaluate_without_options_scores_everything(memory, fake):
    result = lifealign("evaluate", memory, "--json")
    assert fake.calls == [("evaluate", None, "test", None, None, None, None, None, None)]
    # NaN is no JSON, and a missing score is not zero.
    assert json.loads(result.stdout) == {"scores": {"accuracy": None}, "gates": []}


def test_a_gate_that_holds(memory, fake):
    result = lifealign("evaluate", memory, "--gate", "last>=80", "--gate", "bwt>=-2")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "accuracy 80.0",
        "gate last.accuracy>=80 held: 80.00 (Preference accuracy, %)",
        "gate bwt.accuracy>=-2 held: -1.50 (Preference accuracy, %)",
    ]


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("bwt>=-1", "gate bwt.accuracy>=-1 failed: -1.50 (Preference accuracy, %)"),
        ("ap>=0", "gate ap.accuracy>=0 failed: ap.accuracy was not measured"),
        ("last.pass_rate>=0", "gate last.pass_rate>=0 failed: last.pass_rate was not measured"),
    ],
)
def test_a_gate_that_fails_ends_with_3(memory, fake, gate, message):
    result = lifealign("evaluate", memory, "--gate", "last>=80", "--gate", gate, "--json")
    assert result.exit_code == 3
    assert result.stderr == f"lifealign: {message}\n"
    assert [one["held"] for one in json.loads(result.stdout)["gates"]] == [True, False]


def test_a_malformed_gate_ends_with_2_before_any_work(memory, fake):
    result = lifealign("evaluate", memory, "--gate", "bwt>>1")
    assert result.exit_code == 2
    assert "--gate 'bwt>>1'" in result.stderr
    assert fake.calls == []


def test_a_gate_judges_the_memory_as_it_is(memory, fake):
    result = lifealign("evaluate", memory, "--gate", "bwt>=-1", "--as-of", "a")
    assert result.exit_code == 2
    assert "does not go with --as-of" in result.stderr
    assert fake.calls == []


def test_an_unknown_split(memory, fake):
    result = lifealign("evaluate", memory, "--split", "train")
    assert result.exit_code == 2
    assert "--split 'train': allowed: test, validation" in result.stderr


# --- the others -------------------------------------------------------------------------------------------------------


def test_generate_passes_its_options_on(memory, fake):
    result = lifealign(
        "generate", memory, "--prompt", "a", "--prompt", "b", "--as-of", "t", "--max-new-tokens", 9, "--json"
    )
    assert json.loads(result.stdout) == [{"prompt": "a", "answer": "<a>"}, {"prompt": "b", "answer": "<b>"}]
    options = {"as_of": "t", "max_new_tokens": 9, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 16}
    plain = {"weights": None, "route": False, "route_temperature": None}
    assert fake.calls == [("generate", [(Message("user", "a"),), (Message("user", "b"),)], options | plain)]
    assert lifealign("generate", memory, "--prompt", "a", "--prompt", "b").stdout == "<a>\n\n<b>\n"


SYSTEM = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "wo? ä"}]


def test_generate_answers_a_file_as_jsonl(memory, fake, tmp_path):
    file = tmp_path / "prompts.jsonl"
    given = [{"prompt": "a", "id": 7}, {"messages": SYSTEM}, {"prompt": SYSTEM}]
    file.write_text("\n".join(json.dumps(row) for row in given))
    expected = [
        {"prompt": "a", "answer": "<a>"},
        {"messages": SYSTEM, "answer": "<wo? ä>"},
        {"prompt": SYSTEM, "answer": "<wo? ä>"},
    ]
    printed = lifealign("generate", memory, "--prompts", file, "--batch-size", 2).stdout
    assert [json.loads(line) for line in printed.splitlines()] == expected and "ä" in printed
    _, turns, options = fake.calls[0]
    assert options["batch_size"] == 2
    assert turns[0] == (Message("user", "a"),)
    assert turns[1] == turns[2] == (Message("system", "be brief"), Message("user", "wo? ä"))
    assert json.loads(lifealign("generate", memory, "--prompts", file, "--json").stdout) == expected
    out = tmp_path / "new" / "answers.jsonl"
    result = lifealign("generate", memory, "--prompts", file, "--out", out)
    assert result.stdout == f"written: 3 answers to {out}\n"
    assert out.read_text(encoding="utf-8") == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no row; expected one prompt a row"),
        (
            '{"prompt": "a"}\n{"chosen": "b"}',
            "row 2: expected exactly one of `prompt` and `messages`, got columns ['chosen']",
        ),
        ('{"prompt": "a", "messages": []}', "row 1: expected exactly one of `prompt` and `messages`"),
        ('{"prompt": 3}', "row 1: prompt: prompt is neither a string nor a list of messages"),
        ('{"prompt": " "}', "row 1: prompt must end with a user turn that is not empty"),
        ('{"messages": []}', "row 1: messages must end with a user turn"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "row 1: messages must end with a user turn"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "row 1: messages: a message has a role other than"),
        ('{"prompt": "\\ud800"}', "row 1: prompt is not valid Unicode (a lone surrogate)"),
        ('{"prompt": ', "1: not valid JSON"),
    ],
)
def test_prompts_that_cannot_be_answered(memory, fake, tmp_path, text, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    result = lifealign("generate", memory, "--prompts", file)
    assert result.exit_code == 2 and result.stdout == "" and fake.calls == []
    assert f"{file}:" in result.stderr and message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("given", [(), ("--prompt", "a", "--prompts", "f.jsonl")])
def test_generate_takes_prompts_from_one_place(memory, fake, given):
    result = lifealign("generate", memory, *given)
    assert result.exit_code == 2 and fake.calls == []
    assert result.stderr == "lifealign: give either --prompt TEXT (repeats) or --prompts FILE\n"


def test_generate_finds_out_first_where_it_may_not_write(memory, fake, tmp_path):
    (tmp_path / "file").touch()
    result = lifealign("generate", memory, "--prompt", "a", "--out", tmp_path / "file" / "answers.jsonl")
    assert result.exit_code == 2 and "cannot be written" in result.stderr and fake.calls == []


def test_generate_passes_weights_and_routing_on(memory, fake):
    assert lifealign("generate", memory, "--prompt", "a", "--weight", "t=0", "--weight", "u=1.5").exit_code == 0
    assert lifealign("generate", memory, "--prompt", "a", "--route", "--route-temperature", 0.2).exit_code == 0
    given = [{k: call[2][k] for k in ("weights", "route", "route_temperature")} for call in fake.calls]
    assert given == [
        {"weights": {"t": 0.0, "u": 1.5}, "route": False, "route_temperature": None},
        {"weights": None, "route": True, "route_temperature": 0.2},
    ]


def test_related_and_compose_pass_their_options_on(memory, fake):
    result = lifealign("related", memory, "rows.jsonl", "--steps", 0, "--as-of", "t", "--recipe", "hc3", "--json")
    assert json.loads(result.stdout) == {"what": "related", "overlap": None}
    assert (
        lifealign("compose", memory, "--weight", "a=-0.5", "--out", "there", "--space", "delta_w").stdout
        == "composed\n"
    )
    assert lifealign("compose", memory, "--weight", "a=1", "--split", "validation", "--as-of", "t").exit_code == 0
    assert fake.calls == [
        ("related", "rows.jsonl", {"steps": 0, "recipe": "hc3", "as_of": "t"}),
        ("compose", {"a": -0.5}, {"space": "delta_w", "out": Path("there"), "as_of": None, "split": "test"}),
        ("compose", {"a": 1.0}, {"space": None, "out": None, "as_of": "t", "split": "validation"}),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to compose: give --weight TASK=WEIGHT"),
        (("--weight", "tone"), "--weight 'tone': expected TASK=WEIGHT with a number"),
        (("--weight", "tone=half"), "--weight 'tone=half': expected TASK=WEIGHT with a number"),
        (("--weight", "a=1", "--weight", "a=2"), "--weight 'a=2': task 'a' has a weight already (1)"),
        (("--weight", "a=1", "--split", "train"), "--split 'train': allowed: test, validation"),
    ],
)
def test_weights_that_cannot_be_read(memory, fake, arguments, message):
    result = lifealign("compose", memory, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert fake.calls == []


def test_export_passes_its_options_on(memory, fake):
    assert lifealign("export", memory, "--out", "there", "--merged", "--as-of", "t").exit_code == 0
    assert lifealign("export", memory, "--out", "there").exit_code == 0
    assert fake.calls == [("export", Path("there"), True, "t"), ("export", Path("there"), False, None)]


def test_log_show_rollback(memory, fake):
    assert lifealign("log", memory).stdout.splitlines() == [
        "0001-tone   2030-01-01     2.50 MB",
        "0002-old    2030-01-01     2.50 MB  (rolled back)",
        "0002-style  2030-01-01     2.50 MB  <- now",
    ]
    assert [entry["head"] for entry in json.loads(lifealign("log", memory, "--json").stdout)] == [False, False, True]
    assert "accuracy: null" in lifealign("show", memory, "tone").stdout
    assert json.loads(lifealign("show", memory, "tone", "--json").stdout)["order"] == [1, 2]
    assert "now at 0001-tone" in lifealign("rollback", memory, "tone").stdout
    assert fake.calls == [("rollback", "tone")]


def test_verify_names_every_problem(memory, fake):
    assert lifealign("verify", memory).exit_code == 0
    fake.problems = ["a: changed", "b: missing"]
    result = lifealign("verify", memory, "--json")
    assert result.exit_code == 2
    assert result.stderr == "lifealign: a: changed\nlifealign: b: missing\n"
    assert json.loads(result.stdout)["problems"] == ["a: changed", "b: missing"]


def test_check_data_says_what_is_wrong_by_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "same", "rejected": "same"}\n'
    )
    result = lifealign("check-data", path)
    assert result.exit_code == 0
    assert "row 2" in result.stdout
    report = json.loads(lifealign("check-data", path, "--json").stdout)["report"]
    assert (report["read"], report["kept"]) == (2, 1)


def test_check_data_without_a_usable_row_ends_with_2(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "chosen": "same", "rejected": "same"}\n')
    result = lifealign("check-data", path)
    assert result.exit_code == 2
    assert result.stderr == f"lifealign: {path}: no usable row\n"


def test_run_with_a_wrong_file_lists_all_mistakes(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(sys.modules["lifealign.memory.learning"], "learn_stream", None, raising=False)
    path = tmp_path / "run.yaml"
    path.write_text("sed: 1\ntrain: {epochs: -1}")
    result = lifealign("run", path, "--set", "lora.r=0")
    assert result.exit_code == 2
    assert "did you mean 'seed'?" in result.stderr
    assert "train.epochs" in result.stderr
    assert "lora.r" in result.stderr


@pytest.mark.parametrize("call", [("evaluate", "--nope"), ("nope",), ("learn",)])
def test_a_wrong_call_is_one_document_where_one_is_asked_for(
    call: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in ((), ("--json",)):
        monkeypatch.setattr(sys, "argv", ["lifealign", *call, *flags])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        out, err = capsys.readouterr()
        assert "Usage: " in err
        if flags:
            document = json.loads(out)
            assert document["exit_code"] == 2 and document["error"] in err
        else:
            assert out == ""
