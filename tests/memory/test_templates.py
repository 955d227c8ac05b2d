"""A memory whose base model has a demanding template: refused before anything is written, and a date that stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import chat_template_utils
from typer.testing import CliRunner, Result

import lifealign.model.encoding
import lifealign.model.logp_cache
from lifealign.cli.app import app
from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, DataError
from lifealign.data.tasks import Message, Row, Task
from lifealign.memory.api import Memory, run_stream
from lifealign.model.adapters import causal_lm
from lifealign.store.layout import DATA
from support.tiny import TEMPLATE, make_model, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

DATED = "{{ 'Today: ' + strftime_now('%d %B %Y %H:%M:%S') }}\n" + TEMPLATE
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
CLOSES = TEMPLATE.replace("{% endif %}", "<think>\n{% endif %}").replace(
    "{{ m['content'] }}", "{{ '<think>\n\n</think>\n\n' if m['role'] == 'assistant' }}{{ m['content'] }}"
)
SETTINGS = ("model.dtype=float32", "lora.r=2", "train.epochs=1", "evaluate.bootstrap=5", "data.max_length=300")


@pytest.fixture
def base(tmp_path: Path) -> Callable[[str], Path]:
    def save(template: str) -> Path:
        directory = tmp_path / "base"
        make_model().save_pretrained(directory)
        make_tokenizer(template).save_pretrained(directory)
        return directory

    return save


def rows(tmp_path: Path, name: str, *lines: dict[str, Any]) -> Path:
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def pair(question: str, chosen: str = "yes", **more: Any) -> dict[str, Any]:
    return {"prompt": question, "chosen": chosen, "rejected": "no", **more}


def learn(path: Path, model: Path, train: Path, test: Path, *settings: str) -> Result:
    options = [o for s in (*SETTINGS, *settings) for o in ("--set", s)]
    given = ["learn", path, train, "--name", "tone", "--test", test, "--base-model", model, *options]
    return CliRunner().invoke(app, [str(a) for a in given])


WITH_SYSTEM = {"prompt": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}]}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_refused_role_is_one_message_and_leaves_nothing(
    split: str, base: Callable[[str], Path], tmp_path: Path
) -> None:
    bad = rows(tmp_path, "bad.jsonl", *[pair(f"q{i}") for i in range(45)], pair("q") | WITH_SYSTEM)
    good = rows(tmp_path, "good.jsonl", *[pair(f"r{i}") for i in range(45)])
    files = (bad, good) if split == "train" else (good, bad)
    result = learn(tmp_path / "memory", base(NO_SYSTEM + TEMPLATE), *files)
    assert result.exit_code == 2
    message = result.stderr.strip().splitlines()[-1]
    for part in ("bad.jsonl:46", "System role not supported", "leave the row out", "data.system=merge"):
        assert part in message
    assert not (tmp_path / "memory").exists()
    # The way out that the message names.
    merged = learn(tmp_path / "memory", base(NO_SYSTEM + TEMPLATE), *files, "data.system=merge")
    assert merged.exit_code == 0, merged.output
    assert Memory.open(tmp_path / "memory").config.data.system == "merge"


def test_a_stream_with_a_refused_row_in_its_last_task_writes_nothing(
    base: Callable[[str], Path], tmp_path: Path
) -> None:
    good, held = (rows(tmp_path, f"{n}.jsonl", *[pair(f"{n}{i}") for i in range(4)]) for n in ("good", "held"))
    bad = rows(tmp_path, "bad.jsonl", pair("q") | WITH_SYSTEM)
    tasks = [
        {"name": p.stem, "train": {"path": str(p)}, "test": {"path": str(held)}, "validation_rows": 0}
        for p in (good, bad)
    ]
    config = RunConfig.model_validate(
        {
            "memory": str(tmp_path / "memory"),
            "model": {"name": str(base(NO_SYSTEM + TEMPLATE))},
            "stream": {"tasks": tasks},
        }
    )
    with pytest.raises(DataError, match=r"bad\.jsonl:1: .*System role not supported"):
        run_stream(config)
    assert not (tmp_path / "memory").exists()


def test_an_answer_behind_a_block_that_the_template_closes_is_learnt_scored_and_generated(
    base: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = (rows(tmp_path, f"{n}.jsonl", *[pair(f"{n}{i}") for i in range(4)]) for n in ("a", "b"))
    path = tmp_path / "memory"
    result = learn(path, base(CLOSES), train, test, "evaluate.generations=1", "evaluate.text_metrics=[chrf]")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("opens <think> in the generation prompt") == 1
    assert Memory.open(path).scores()[0][0] >= 0


def a_month_later(patch: pytest.MonkeyPatch) -> None:
    """Move every clock that a prompt could be made with."""

    class Date(date):
        @classmethod
        def today(cls) -> Any:
            return cls(2031, 5, 6)

    class Clock(chat_template_utils.datetime):  # type: ignore[misc]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2031, 5, 6, 7, 8, 9)

    patch.setattr(lifealign.model.encoding, "date", Date)
    patch.setattr(chat_template_utils, "datetime", Clock)
    chat_template_utils._compile_jinja_template.cache_clear()


TASK = Task(
    "tone",
    tuple(Row((Message("user", f"q{i}"),), f"yes {i}", "no", f"t:{i}") for i in range(4)),
    test=tuple(Row((Message("user", f"h{i}"),), f"yes {i}", "no", f"h:{i}") for i in range(3)),
)


def config(path: Path, model: Path, *settings: str) -> RunConfig:
    from lifealign.strategies.configure import read_config

    return read_config(None, [*SETTINGS, *settings], base={"memory": str(path), "model": {"name": str(model)}})


class Said:
    """Keeps what is said."""

    def __init__(self) -> None:
        from lifealign.core.progress import NullProgress

        self.lines: list[str] = []
        self.stage = NullProgress().stage

    def say(self, line: str) -> None:
        self.lines.append(line)


def prompts(memory: Memory) -> list[str]:
    session = memory._session(memory.config, None)
    return [session.encoder.tokenizer.decode(p.prompt) for p in session.encoder.encode(TASK.test)[0]]


def scores(memory: Memory) -> Any:
    """Scores of the held-out rows by the model as it is, not those that are stored."""
    session = memory._session(memory.config, None)
    session.load(memory._store, memory._store.head)
    return session.score("tone", TASK.test, None, generations=0, max_new_tokens=1, title="again").rows


def test_the_date_of_a_template_is_fixed_when_a_memory_is_made_and_never_moves(
    base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: Any = Said()
    path, model = tmp_path / "memory", base(DATED)
    made = Memory.create(path, config(path, model, "model.template_date=2026-03-04"), progress=said)
    made.learn(TASK, progress=said)
    kept = [line for line in said.lines if "date" in line]
    assert kept == ["the chat template writes today's date; this memory's prompts keep 2026-03-04 for its whole life"]
    assert made._store.identity["config"]["model"]["template_date"] == "2026-03-04"
    first = prompts(made), scores(made), made.generate(["hello"], max_new_tokens=5)
    evaluated = made.evaluate().to_json()["tasks"]
    assert first[0][0].startswith("Today: 04 March 2026 00:00:00")

    a_month_later(monkeypatch)
    later = Memory.open(path)
    computed: list[str] = []
    real = lifealign.model.logp_cache.pair_logps

    def compute(*args: Any, title: str, **kwargs: Any) -> Any:
        computed.append(title)
        return real(*args, title=title, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(lifealign.model.logp_cache, "pair_logps", compute)
        assert (prompts(later), scores(later), later.generate(["hello"], max_new_tokens=5)) == first
        assert later.evaluate().to_json()["tasks"] == evaluated
    assert not [title for title in computed if "reference" in title]  # known under the same ids
    # The next task is learnt with the same date, and an export renders it on any day.
    fresh = tuple(Row((Message("user", f"n{i}"),), f"yes {i}", "no", f"n:{i}") for i in range(3))
    later.learn(Task("next", fresh, test=TASK.train))
    assert prompts(later) == first[0]
    exported = AutoTokenizer.from_pretrained(later.export(tmp_path / "adapter"))
    turns = [{"role": "user", "content": "h0"}]
    assert exported.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == first[0][0]


def test_without_a_setting_the_date_is_the_day_on_which_the_memory_is_made(
    base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = tmp_path / "memory", base(DATED)
    a_month_later(monkeypatch)
    made = Memory.create(path, config(path, model))
    assert str(made.config.model.template_date) == "2031-05-06"
    assert prompts(made)[0].startswith("Today: 06 May 2031 00:00:00")


def test_an_older_memory_gets_the_day_on_which_it_was_made(
    base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = tmp_path / "memory", base(DATED)
    with monkeypatch.context() as patch:  # as memories were made before a date was kept
        patch.setattr(lifealign.model.encoding.Encoder, "writes_date", False)
        made = Memory.create(path, config(path, model))
    assert "template_date" not in made._store.identity["config"]["model"]
    day = made._store.lineage()[0].created[:10]
    a_month_later(monkeypatch)
    said: Any = Said()
    old = Memory.open(path)
    old._session(old.config, said)
    assert f"its prompts have {day}, the day on which it was made" in said.lines[-1]
    assert prompts(old)[0].split(" 00:00:00")[0].endswith(f" {day[:4]}")


def test_another_date_is_another_memory_and_a_date_without_effect_is_refused(
    base: Callable[[str], Path], tmp_path: Path
) -> None:
    path, model = tmp_path / "memory", base(DATED)
    made = Memory.create(path, config(path, model, "model.template_date=2026-03-04"))
    with pytest.raises(ConfigError, match="model is fixed for a memory's life"):
        made.learn(TASK, settings=["model.template_date=2026-03-05"])
    with pytest.raises(ConfigError, match=r"model.template_date=2026-03-04: the model's template writes no date"):
        Memory.create(tmp_path / "other", config(tmp_path / "other", base(TEMPLATE), "model.template_date=2026-03-04"))


def test_generation_stops_at_the_templates_own_end_and_a_merged_export_knows_it(
    base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = base(TEMPLATE.replace("<|im_end|>", "<end>"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<end>"])
    tokenizer.save_pretrained(model)
    memory = Memory.create(tmp_path / "memory", config(tmp_path / "memory", model))
    session = memory._session(memory.config, None)
    end, eos, word = (int(i) for i in tokenizer.convert_tokens_to_ids(["<end>", "<|im_end|>", "a"]))
    assert session.encoder.ends == sorted({eos, end})
    assert {p.chosen[-1] for p in session.encoder.encode(TASK.train)[0]} == {end}
    stops: list[Any] = []

    def speak(input_ids: torch.Tensor, generation_config: Any, **_: Any) -> torch.Tensor:
        stops.append(generation_config.eos_token_id)
        return torch.cat([input_ids, torch.tensor([[word, end, word, word]])], 1)

    monkeypatch.setattr(causal_lm(session.model), "generate", speak)
    assert memory.generate(["hello"]) == ["a"]  # though <end> is no special token, which decoding leaves out
    assert end in stops[0] and eos in stops[0]
    merged = AutoModelForCausalLM.from_pretrained(memory.export(tmp_path / "merged", merged=True))
    assert end in merged.generation_config.eos_token_id


@pytest.mark.parametrize("use", ["train", "mask", "drop"])
def test_the_use_of_reasoning_is_kept_with_the_task(use: str, base: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory = Memory.create(path, config(path, base(TEMPLATE), f"data.reasoning={use}"))
    reasoned = [Row(r.prompt, f"<think>so</think>{r.chosen}", r.rejected, r.source) for r in TASK.train]
    said: Any = Said()
    memory.learn(Task("tone", tuple(reasoned), test=TASK.test), progress=said)
    kept = memory._store.load_document(memory._store.head, DATA)["encoding"]
    assert kept["reasoning"] == {use: [f"t:{i}" for i in range(4)]}
    assert [line for line in said.lines if "reasoning" in line and f"(data.reasoning={use})" in line]
