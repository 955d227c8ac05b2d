"""`lifealign learn`: what it passes on to the memory, and what it refuses."""

from __future__ import annotations

import json

from lifealign.core.config import ModelConfig, RunConfig
from support.cli import lifealign


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
    assert result.exit_code == 2 and "task requirement: must not be blank" in result.stderr


def test_learn_hands_on_the_rule_and_refuses_one_that_it_cannot_find(memory, fake, rows):
    assert lifealign("learn", memory, rows, "--name", "tone", "--checker", "how-to-steps").exit_code == 0
    assert fake.calls[0][1].checker == "how-to-steps"
    result = lifealign("learn", memory, rows, "--name", "tone", "--checker", "steps")
    assert result.exit_code == 2 and "task tone: checker: unknown checker 'steps'" in result.stderr
    assert len(fake.calls) == 1


def test_learn_without_memory_and_base_model_is_refused(tmp_path, fake, rows):
    for path in (tmp_path / "none", tmp_path / "empty"):
        result = lifealign("learn", path, rows, "--name", "tone")
        assert result.exit_code == 2
        assert f"{path}: no memory here; give --base-model" in result.stderr
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


def test_what_a_task_supersedes_goes_with_it_and_is_printed(memory, rows, fake):
    result = lifealign("learn", memory, rows, "--name", "tone", "--supersedes", "old")
    assert fake.calls[0][1].supersedes == "old" and "old: update taken out" in result.stdout
    again = lifealign(
        "learn", memory.parent / "new", rows, "--name", "a", "--supersedes", "b", "--base-model", "smollm2-135m"
    )
    assert again.exit_code == 2 and "no task 'b' to supersede; the memory is made by this command" in again.stderr
    assert not (memory.parent / "new").exists()


def test_settings_of_a_file_apply_to_new_and_old_memories(tmp_path, fake, rows, memory):
    file = tmp_path / "settings.yaml"
    file.write_text("model: {name: smollm2-135m}\ntrain: {epochs: 3}\nlora: {target_modules: [q_proj, v_proj]}")
    call = ("--name", "tone", "--config", file, "--set", "train.epochs=5")
    for path in (tmp_path / "new", memory):
        assert lifealign("learn", path, rows, *call).exit_code == 0
    (_, _, config), (_, _, first), (_, _, second) = fake.calls
    assert (config.model.name, config.train.epochs, config.lora.target_modules) == (
        "smollm2-135m",
        5,
        ("q_proj", "v_proj"),
    )
    assert (
        first
        == second
        == [
            'model.name="smollm2-135m"',
            "train.epochs=3",
            'lora.target_modules=["q_proj", "v_proj"]',
            "train.epochs=5",
        ]
    )
    file.write_text("stream: {planted: {}}")
    refused = lifealign("learn", memory, rows, "--name", "b", "--config", file)
    assert refused.exit_code == 2 and "stream is for `lifealign run`" in refused.stderr


def test_rows_are_held_out_in_the_numbers_that_are_asked_for_and_may_come_from_stdin(memory, fake, rows):
    from lifealign.data import sources

    sources._stdin.cache_clear()
    call = ("--name", "tone", "--validation-rows", "3", "--test-rows", "2", "--note", "by hand")
    assert lifealign("learn", memory, "-", *call, stdin=rows.read_text()).exit_code == 0
    ((_, task, _, note),) = fake.calls
    assert (len(task.train), len(task.validation), len(task.test), note) == (5, 3, 2, "by hand")
    sources._stdin.cache_clear()


def test_a_dry_run_counts_and_learns_nothing(tmp_path, fake, rows):
    path = tmp_path / "new"
    call = ("learn", path, rows, "--name", "tone", "--base-model", "smollm2-135m", "--dry-run")
    call += ("--set", "train.pairs_per_step=4", "--set", "train.epochs=2")
    result = lifealign(*call)
    assert result.stdout.splitlines()[-5:] == [
        "dry run: nothing is learnt",
        "rows: 8 to train on; held out: 2 test",
        "tokens: about 18 in the training rows, at 4 characters each",
        "steps: 4 at most",  # two epochs, and two of the supervised stage that the preset has
        "time and disk space: not known before a first task was learnt here",
    ]
    document = json.loads(lifealign(*call, "--json").stdout)
    assert (document["steps"], document["seconds"]) == (4, None)
    assert fake.calls == [] and not path.exists()
