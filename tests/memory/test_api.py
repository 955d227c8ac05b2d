"""A memory from Python, end to end on a random two-layer model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, DataError, ModelError, StoreError
from lifealign.core.json_codec import plain
from lifealign.core.progress import NullProgress
from lifealign.data.tasks import Message, Row, Task
from lifealign.memory.api import Memory, run_stream
from lifealign.memory.session import Session
from lifealign.store.heldout import heldout
from lifealign.store.layout import ADAPTER, ROOT
from lifealign.store.writer import MemoryStore
from support.rows import make_task, rows
from support.tiny import make_tokenizer, save_tiny

BREAD, STARS, MUSIC = (make_task(name, train=8, test=4, validation=2) for name in ("bread", "stars", "music"))
PROMPTS = ["how do I bake bread?", "stars question 1?", "and a much longer question about music, please: what is it?"]
IDS = torch.arange(3, 43)[None]
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def memory(config: Build, tmp_path: Path) -> Memory:
    """Two tasks learnt, hard enough that greedy answers differ."""
    made = Memory.create(tmp_path / "memory", config("train.learning_rate=0.05", "train.epochs=2"))
    made.learn(BREAD)
    made.learn(STARS)
    return made


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits  # type: ignore[no-any-return]


def live_logits(memory: Memory, task: str | None = None) -> Tensor:
    """Logits of the live model with the weights of a commit."""
    session = memory._session(memory.config, None)
    session.load(memory._store, memory._point(task))
    return logits(session.model)


def records(memory: Memory) -> list[tuple[str, str, list[str]]]:
    return [(r["after"], r["options"]["split"], [s["task"] for s in r["scores"]]) for r in memory._store.evaluations()]


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_create_learn_and_look_back(config: Build, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "memory", config("train.learning_rate=0.02"))
    assert memory.log()[0]["name"] == "initial" and memory.verify() == [] and memory.scores() == []
    result = memory.learn(BREAD)
    assert (result.name, result.directory) == ("bread", "0001-bread") and result.seconds > 0
    assert result.diagnostics["matrices"] == 8  # 2 layers x (q, v) x (A, B)
    assert set(result.scores) == {f"bread.{m}" for m in ("accuracy", "margin", "likelihood_accuracy", "nll")}
    second = memory.learn(STARS, settings=["train.epochs=2"])
    assert {name.partition(".")[0] for name in second.scores} == {"bread", "stars"}
    json.dumps(second.to_json())
    assert [(e["name"], e["current"], e["head"]) for e in memory.log()] == [
        ("initial", True, False),
        ("bread", True, False),
        ("stars", True, True),
    ]
    shown = memory.show("stars")
    # 8 own rows and 2 (a fifth of 8) of the first task: three steps of at most 4 pairs, twice.
    assert shown["data"]["rows"] == 10 and shown["data"]["from_replay"] == 2 and shown["last_step"]["step"] == 6
    assert memory.show("bread")["last_step"]["step"] == 2
    assert shown["scores"]["bread"]["margin"] == second.scores["bread.margin"]
    assert memory.show("initial")["last_step"] is None
    assert memory.verify() == []
    # Before anything, before each task, and after each task.
    assert records(memory) == [
        (ROOT, "test", ["bread"]),
        ("0001-bread", "test", ["bread"]),
        (ROOT, "test", ["stars"]),
        ("0001-bread", "test", ["stars"]),
        ("0002-stars", "test", ["bread", "stars"]),
    ]


def test_scores_are_of_the_weights_after_each_task(memory: Memory) -> None:
    """R[k][j] by hand: beta times the log-ratio against the base model, with plain forwards and a softmax."""
    R = memory.scores("margin")
    session = memory._session(memory.config, None)
    for k, after in enumerate(("bread", "stars")):
        session.load(memory._store, memory._store.find(after))
        for j, task in enumerate((BREAD, STARS)):
            margins = [margin(session, row) for row in task.test]
            assert R[k][j] == pytest.approx(sum(margins) / len(margins), abs=1e-4)
            wins = [100.0 * (m > 0) for m in margins]
            assert memory.scores("accuracy")[k][j] == pytest.approx(sum(wins) / len(wins))
    assert R[0] != R[1]


def margin(session: Session, row: Row, beta: float = 0.1) -> float:
    tokenizer, model = session.base.tokenizer, session.model
    values = []
    for answer in (row.chosen, row.rejected):
        turns = [{"role": m.role, "content": m.content} for m in row.prompt]
        start = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(start, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([tokenizer(start + answer + "<|im_end|>", add_special_tokens=False)["input_ids"]])
        target = ids[0, len(prompt) :, None]
        with torch.no_grad():
            policy = model(input_ids=ids).logits.double().log_softmax(-1)[0, len(prompt) - 1 : -1].gather(1, target)
            with model.disable_adapter():  # type: ignore[operator]
                base = model(input_ids=ids).logits.double().log_softmax(-1)[0, len(prompt) - 1 : -1].gather(1, target)
        values.append(float((policy - base).sum()))
    return beta * (values[0] - values[1])


def test_evaluate_measures_once_and_looks_back(memory: Memory) -> None:
    before = len(records(memory))
    evaluation = memory.evaluate()
    assert len(records(memory)) == before  # learning measured it
    assert evaluation.after == "0002-stars" and list(evaluation.tasks) == ["bread", "stars"]
    cell = evaluation.tasks["bread"]["margin"]
    assert cell["value"] == memory.scores("margin")[1][0] and cell["rows"] == 4
    assert cell["low"] <= cell["value"] <= cell["high"]
    assert "after 0002-stars, test rows" in evaluation.lines()[0] and len(evaluation.lines()) == 3
    early = memory.evaluate(["bread"], as_of="bread", split="validation")
    assert records(memory)[-1] == ("0001-bread", "validation", ["bread"])
    assert early.tasks["bread"]["margin"]["rows"] == 2
    memory.evaluate(as_of="bread", split="validation")
    assert len(records(memory)) == before + 1
    json.dumps(evaluation.to_json())


def test_summary_and_results_agree_with_the_matrix(memory: Memory) -> None:
    R = memory.scores("margin")
    summary = memory.summary()["margin"]
    assert summary["last"]["value"] == pytest.approx((R[1][0] + R[1][1]) / 2)
    assert summary["bwt"]["value"] == pytest.approx(R[1][0] - R[0][0])
    # Before any task the policy is the base model, so every margin is 0.
    assert summary["forward_transfer"]["value"] == pytest.approx(R[0][1])
    results = memory.results()
    assert results["tasks"] == ["bread", "stars"] and results["scores"]["margin"]["R"] == R
    assert results["scores"]["margin"]["before"] == [0.0, 0.0] and results["method"] == "lifealign"
    assert len(results["training"]["bread"]) == 4 and set(results["consolidation"]) == {"bread", "stars"}
    json.dumps(plain(results), allow_nan=False)  # an interval without width is left out, as NaN


def test_before_false_scores_nothing_before(config: Build, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "m", config("evaluate.before=false"))
    memory.learn(BREAD)
    memory.learn(STARS)
    assert [r[0] for r in records(memory)] == ["0001-bread", "0002-stars"]
    assert math.isnan(memory.scores()[0][1])


def test_generate_is_deterministic_and_knows_the_past(memory: Memory) -> None:
    greedy = memory.generate(PROMPTS, max_new_tokens=12)
    assert memory.generate(PROMPTS, max_new_tokens=12) == greedy
    assert [memory.generate([p], max_new_tokens=12)[0] for p in PROMPTS] == greedy  # padding does not matter
    past = memory.generate(PROMPTS, as_of="bread", max_new_tokens=12)
    assert past != greedy and memory.generate(PROMPTS, as_of="initial", max_new_tokens=12) not in (past, greedy)
    assert Memory.open(memory.path).generate(PROMPTS, max_new_tokens=12) == greedy
    sampled = memory.generate(PROMPTS, max_new_tokens=12, temperature=1.0, seed=1)
    assert sampled == memory.generate(PROMPTS, max_new_tokens=12, temperature=1.0, seed=1)
    assert sampled != memory.generate(PROMPTS, max_new_tokens=12, temperature=1.0, seed=2)
    with pytest.raises(DataError, match=r"temperature=-1"):
        memory.generate(PROMPTS, temperature=-1)
    with pytest.raises(StoreError, match=r"no task 'musik'; known: .*bread"):
        memory.generate(PROMPTS, as_of="musik")


@pytest.mark.parametrize("as_of", [None, "bread"])
def test_exported_adapter_works_with_peft_alone(memory: Memory, tmp_path: Path, tiny_dir: Path, as_of: Any) -> None:
    out = memory.export(tmp_path / "adapter", as_of=as_of)
    assert not list(out.glob("*.bin"))  # no pickle
    base = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    plain = logits(base)
    model = peft.PeftModel.from_pretrained(base, str(out))
    assert model.peft_config["default"].base_model_name_or_path == str(tiny_dir)
    live = live_logits(memory, as_of)
    torch.testing.assert_close(logits(model), live, atol=1e-5, rtol=0)
    assert float((live - plain).abs().max()) > 0.1
    torch.testing.assert_close(live_logits(memory, as_of), live, atol=0, rtol=0)  # export leaves the live model alone
    assert memory.learn(MUSIC).directory == "0003-music"


def test_merged_export_is_a_whole_model(memory: Memory, tmp_path: Path) -> None:
    live = live_logits(memory)
    out = memory.export(tmp_path / "whole", merged=True)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any("lora" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(logits(model), live, atol=1e-4, rtol=0)
    assert AutoTokenizer.from_pretrained(out).chat_template == make_tokenizer().chat_template
    torch.testing.assert_close(live_logits(memory), live, atol=0, rtol=0)  # a session is loaded anew
    with pytest.raises(ConfigError, match=r"whole: not an empty directory; give one that is missing"):
        memory.export(out)


@pytest.mark.parametrize("merged", [False, True])
def test_an_export_to_a_full_disk_leaves_nothing(
    memory: Memory, merged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, directory: str, **options: Any) -> None:
        (Path(directory) / "config.json").write_text("{}")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    for kind in (peft.PeftModel, PreTrainedModel):
        monkeypatch.setattr(kind, "save_pretrained", full)
    with pytest.raises(StoreError, match=r"export: cannot be written: .*No space left on device"):
        memory.export(tmp_path / "new" / "export", merged=merged)
    assert not list((tmp_path / "new").iterdir())


def test_margins_are_in_the_memory_s_unit_whatever_beta_a_task_was_learnt_with(memory: Memory) -> None:
    memory.learn(MUSIC, settings=["strategy.beta=0.4"])
    learnt = memory.scores("margin")[2]
    rescored = Memory.open(memory.path).evaluate(generations=1)  # other options, so that all is scored anew
    assert [rescored.tasks[t.name]["margin"]["value"] for t in (BREAD, STARS, MUSIC)] == pytest.approx(learnt, rel=1e-4)


def test_rollback_and_learn_again(memory: Memory) -> None:
    adapter = memory._store.load_tensors(memory._store.head, ADAPTER)
    assert memory.rollback("bread") == "0001-bread"
    assert [e["current"] for e in memory.log()] == [True, True, False]
    assert len(memory.scores()) == 1 and list(memory.evaluate().tasks) == ["bread"]
    again = memory.learn(STARS)
    assert again.directory == "0003-stars"
    repeated = memory._store.load_tensors(memory._store.head, ADAPTER)
    assert all(torch.equal(adapter[k], repeated[k]) for k in adapter)  # nothing of the rolled back task is left over
    assert memory.rollback("0002-stars") == "0002-stars"
    assert memory.rollback("initial") == ROOT
    assert memory.learn(MUSIC).directory == "0004-music"
    assert memory.verify() == []


def test_same_name_with_other_rows_is_refused(memory: Memory) -> None:
    before = files(memory.path)
    message = r"task 'stars' is in the memory already \(0002-stars\); give another name, or roll back"
    with pytest.raises(DataError, match=message):
        memory.learn(Task("stars", rows("other", 8)))
    with pytest.raises(DataError, match=r"task 'bread' is in the memory already \(0001-bread\)"):
        memory.learn(BREAD)  # the same rows, but another task came after it
    assert files(memory.path) == before


def test_learning_again_is_no_work_and_completes_a_missing_row(memory: Memory) -> None:
    before = files(memory.path)
    memory.learn(STARS)
    assert files(memory.path) == before
    *_, last = sorted((memory.path / "evaluations").iterdir())
    record = json.loads(last.read_text())["record"]
    last.unlink()
    reopened = Memory.open(memory.path)
    assert math.isnan(reopened.scores()[1][0])
    result = reopened.learn(STARS)
    again = json.loads(last.read_text())["record"]
    assert again == record and result.directory == "0002-stars" and len(reopened.log()) == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.template=plain", r"model is fixed for a memory's life: it is .*, this call sets .*template='plain'"),
        ("lora.r=4", r"lora is fixed for a memory's life: it is r=2 .*this call sets r=4"),
        ("seed=3", r"seed is fixed for a memory's life: it is 0, this call sets 3"),
        (
            "strategy.name=replay",
            r"strategy.name is fixed for a memory's life: it is lifealign, this call sets replay",
        ),
        ("memory=elsewhere", r"memory is fixed for a memory's life"),
        ("train.epohcs=1", r"settings: train.epohcs: unknown key \(did you mean 'epochs'\?\)"),
        (
            "strategy.overlap_scale=2",
            r"settings: strategy.overlap_scale: must be at most 1, got 2",
        ),
    ],
)
def test_settings_that_would_make_another_memory_are_refused(
    setting: str, message: str, config: Build, tmp_path: Path
) -> None:
    memory = Memory.create(tmp_path / "memory", config())
    before = files(memory.path)
    with pytest.raises(ConfigError, match=message):
        memory.learn(BREAD, settings=[setting])
    assert files(memory.path) == before


def test_other_base_model_or_adapter_shape_is_refused(memory: Memory, tiny_dir: Path, config: Build) -> None:
    other = tiny_dir.parent / f"other-{memory.path.parent.name}"
    save_tiny(other, seed=1)
    identity = memory._store.identity
    for settings, message in (
        (
            (f"model.name={other}",),
            r"memory: wrong base model weights: the memory has [0-9a-f]{64}, this run has",
        ),
        (("lora.r=3",), r"wrong LoRA shape: the memory has .*'r': 2.*this run has .*'r': 3"),
        (("model.template=plain",), r"wrong prompt template"),
        (("strategy.name=replay",), r"wrong strategy: the memory has lifealign, this run has replay"),
    ):
        session = Session(config(*settings), NullProgress())
        with pytest.raises(StoreError, match=message):
            session.check_identity(identity, memory.path)
    with pytest.raises(
        ModelError, match=r"does not belong to this model: .*lora_A has shape \[2, 32\], expected \[3, 32\]"
    ):
        Session(config("lora.r=3"), NullProgress()).load(memory._store, memory._store.head)


def test_a_base_model_that_changed_on_disk_is_refused_every_time(config: Build, tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    memory = Memory.create(tmp_path / "memory", config(f"model.name={base}"))
    memory.learn(BREAD)
    save_tiny(base, seed=1)
    reopened = Memory.open(memory.path)
    for _ in range(2):  # a refused model must not be taken the second time
        with pytest.raises(StoreError, match=r"wrong base model weights"):
            reopened.generate(PROMPTS, max_new_tokens=1)


def test_a_run_on_a_memory_made_with_other_settings_is_refused(config: Build, tmp_path: Path) -> None:
    stream = "stream={planted: {train_rows: 2, validation_rows: 1, test_rows: 1}, order: [1]}"
    run_stream(config(stream))
    with pytest.raises(ConfigError, match=r"made with other settings.*\n  train.epochs: 1 in the memory, 2 here"):
        run_stream(config(stream, "train.epochs=2"))
    for before, after in (
        ("order: [1]", "order: [2]"),
        ("train_rows: 2", "train_rows: 3"),
        ("test_rows: 1", "test_rows: 2"),
    ):
        with pytest.raises(
            StoreError, match=r"task 1 of this memory is \['data-json'\], learnt from or scored on other"
        ):
            run_stream(config(stream.replace(before, after)))
    run_stream(config(stream))
    with pytest.raises(ConfigError, match=r"no `stream`, so there is nothing to run"):
        run_stream(config())


def test_messages_for_what_is_not_there(memory: Memory, config: Build, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"memory: already holds a memory"):
        Memory.create(memory.path, config())
    with pytest.raises(StoreError, match=r"nowhere: no such directory"):
        Memory.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no task 'music' up to 0002-stars; known: bread, stars"):
        memory.evaluate(["music"])
    with pytest.raises(DataError, match=r"no task 'stars' up to 0001-bread; known: bread"):
        memory.evaluate(["stars"], as_of="bread")
    with pytest.raises(ConfigError, match=r"evaluate.split: allowed: 'test' or 'validation', got 'dev'"):
        memory.evaluate(split="dev")
    with pytest.raises(ConfigError, match=r"evaluate.split: allowed: 'test' or 'validation', got 'test # all'"):
        memory.evaluate(split="test # all")  # a value as it is, no YAML with a comment
    memory.learn(Task("bare", MUSIC.train))
    with pytest.raises(DataError, match=r"task 'bare' has no test rows; learn it with some to evaluate it"):
        memory.evaluate(["bare"])
    before = files(memory.path)
    with pytest.raises(DataError, match=r"task 'empty' has no training rows"):
        memory.learn(Task("empty", ()))
    assert files(memory.path) == before


def test_rows_that_do_not_fit_are_not_asked_for_answers_either(config: Build, tmp_path: Path) -> None:
    long = Row((Message("user", "why " * 300),), "yes", "no", "long:1")
    task = Task("json", BREAD.train, (), (long, *BREAD.test), checker="data-json")
    memory = Memory.create(tmp_path / "m", config("data.long_prompts=drop", "evaluate.generations=2"))
    scores = memory.learn(task).scores
    (row,) = [r for r in memory._store.evaluations() if r["after"] == "0001-json"]
    (score,) = row["scores"]
    assert len(score["rows"]["margin"]) == 4 and len(score["rows"]["pass_rate"]) == 2
    assert [a["prompt"] for a in score["answers"]] == [r.prompt[-1].content for r in BREAD.test[:2]]
    assert scores["json.pass_rate"] in (0, 50, 100)


def test_opening_holds_no_lock_and_one_writer_keeps_others_out(memory: Memory) -> None:
    other = Memory.open(memory.path)
    with MemoryStore.open(memory.path).writer():
        assert len(other.log()) == 3
        with pytest.raises(StoreError, match=r"another process is writing to .*memory"):
            other.learn(MUSIC)
        with pytest.raises(StoreError, match=r"another process is writing"):
            other.rollback("bread")
    assert other.learn(MUSIC).directory == "0003-music"
    assert memory.learn(make_task("late")).directory == "0004-late"  # sees what the other one committed


def test_a_tracker_that_is_not_installed_is_refused(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory.create(tmp_path / "tracked", config())
    with pytest.raises(ConfigError, match=r"train.trackers: \['mlflow'\] not installed; pip install mlflow"):
        memory.learn(make_task("one"), settings=["train.trackers=[mlflow]"])
    steps: list[int] = []
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step: steps.append(step))
    memory.learn(make_task("one"), settings=["train.trackers=[tensorboard]"])
    memory.learn(make_task("two"), settings=["train.trackers=[tensorboard]"])
    assert steps == list(range(1, len(steps) + 1))  # a tracker leaves out a step that is not above the last one
    assert list((tmp_path / "tracked" / "work" / "trackers").rglob("events*"))


def test_a_requirement_is_kept_with_its_task(config: Build, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "memory", config("train.epochs=0"))
    memory.learn(replace(BREAD, requirement="Say how bread is baked."))
    memory.learn(STARS)
    assert [memory.show(name)["data"]["requirements"] for name in ("bread", "stars")] == [
        {"bread": "Say how bread is baked."},
        {"stars": None},
    ]
    assert [t.requirement for t in heldout(MemoryStore.open(memory.path))] == ["Say how bread is baked.", None]


def test_scores_of_rows_that_a_rollback_took_back_are_not_taken_for_these(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """The first life of task `one` was scored on more rows before it was learnt; the second keeps fewer."""
    memory = Memory.create(tmp_path / "m", config(f"memory={tmp_path / 'm'}"))
    long = make_task("one", train=6, test=6)
    memory.learn(long, settings=["evaluate.unseen=true"])
    before = memory.results()["scores"]["nll"]["before"]
    memory.rollback("initial")
    memory.learn(replace(long, test=long.test[4:]), settings=["evaluate.unseen=true"])
    with pytest.raises(DataError, match="'one' is in the memory already"):  # the same training rows, others held out
        memory.learn(long, settings=["evaluate.unseen=true"])
    cell = memory.results()["scores"]["nll"]
    alone = memory.evaluate().to_json()["tasks"]["one"]["nll"]
    assert alone["rows"] == 2 and cell["R"][-1][0] == pytest.approx(alone["value"])
    assert before[0] is not None and cell["before"][0] != pytest.approx(before[0], abs=1e-6)
