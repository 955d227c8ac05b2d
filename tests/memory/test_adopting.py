"""A memory that begins with an adapter trained elsewhere: exact, a task like others, refused where it is more than LoRA."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from typer.testing import CliRunner, Result

from lifealign.cli.app import app
from lifealign.core.config import ModelConfig, RunConfig
from lifealign.core.errors import ConfigError, ModelError, StoreError
from lifealign.core.progress import NullProgress
from lifealign.memory import adopting, learning
from lifealign.memory.api import Memory
from lifealign.memory.session import Session
from lifealign.model.adapters import adapter_off
from lifealign.model.base import load_base
from lifealign.store.layout import ADAPTER, REPLAY, ROOT
from lifealign.strategies import STRATEGIES
from lifealign.testing import tiny_config, tiny_model, tiny_task, tiny_tokenizer
from support.adapters import IDS, save_adapter, stock_logits, wrapper
from support.rows import rows
from support.tiny import save_tiny

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = ("train.epochs=1", "data.max_length=256", "evaluate.bootstrap=5", "model.dtype=float32")
SMALL = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}


def lifealign(*arguments: str | Path, settings: Sequence[str] = SETTINGS) -> Result:
    given = [part for setting in settings for part in ("--set", setting)]
    return CliRunner().invoke(app, [*map(str, arguments), *given])


def write(path: Path, name: str, count: int = 10) -> Path:
    path.write_text("\n".join(json.dumps(r.to_json()) for r in rows(name, count)))
    return path


def begin(path: Path, base: Path, adapter: Path | str, *settings: str, adapter_rows: Path | None = None) -> Memory:
    """A new memory that begins with an adapter, with all other settings of `tiny_config` but those of LoRA."""
    tree = tiny_config(base, path, *settings).model_dump(mode="json")
    tree["model"] |= {"adapter": str(adapter)} | ({} if adapter_rows is None else {"adapter_rows": str(adapter_rows)})
    tree["lora"] = {k: v for k, v in tree["lora"].items() if any(s.startswith(f"lora.{k}=") for s in settings)}
    return Memory.create(path, RunConfig.model_validate(tree))


@torch.no_grad()
def our_logits(memory: Memory, as_of: str) -> torch.Tensor:
    session = Session(memory.config, NullProgress())
    session.join(memory._store)
    session.load(memory._store, memory._store.find(as_of))
    model: Any = session.model
    found: torch.Tensor = model(input_ids=IDS).logits[0]
    return found


def mixture(directory: Path) -> Path:
    config = transformers.Qwen3MoeConfig(
        **SMALL, **HEADS, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    )
    tiny_model(config).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


TEXT = r".*language_model.*\.(q_proj|v_proj)"
KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "llama": (save_tiny, {}),
    "llama, rslora": (save_tiny, {"use_rslora": True, "lora_alpha": 5}),
    "llama, all linear modules": (save_tiny, {"target_modules": "all-linear", "r": 2}),
    "llama, ranks and scales by module": (
        save_tiny,
        {"rank_pattern": {"v_proj": 5}, "alpha_pattern": {"v_proj": 3}, "r": 2},
    ),
    "llama, one layer": (save_tiny, {"layers_to_transform": [1]}),
    "gpt2": (lambda d: save_tiny(d, "gpt2"), {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "qwen3 moe": (mixture, {}),
    "gemma3": (lambda d: save_tiny(d, "gemma3"), {"target_modules": ["q_proj", "o_proj", "down_proj"]}),
    "gemma3 with vision": (wrapper, {"target_modules": TEXT}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_answers_as_with_stock_peft(kind: str, tmp_path: Path) -> None:
    make, options = KINDS[kind]
    base = make(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", **options)
    memory = begin(tmp_path / "memory", base, adapter)
    assert memory.tasks() == ["imported"]
    right, bare = stock_logits(base, adapter, IDS), stock_logits(base, None, IDS)
    assert float((right - bare).abs().mean()) > 1e-3  # else this shows nothing
    assert torch.allclose(our_logits(memory, "imported"), right, atol=1e-5, rtol=0)
    assert torch.allclose(our_logits(memory, ROOT), bare, atol=1e-5, rtol=0)
    memory.learn(tiny_task("tone"))
    out = memory.export(tmp_path / "out", as_of="imported")
    assert torch.allclose(stock_logits(base, out, IDS), right, atol=1e-5, rtol=0)


def test_a_larger_rank_another_scale_and_more_modules_hold_it_exactly(tiny_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    wider = ("lora.r=7", "lora.alpha=3", "lora.target_modules=all-linear")
    memory = begin(tmp_path / "memory", tiny_dir, adapter, *wider)
    assert (memory.config.lora.r, memory.config.lora.alpha) == (7, 3)
    assert torch.allclose(our_logits(memory, "imported"), stock_logits(tiny_dir, adapter, IDS), atol=1e-5, rtol=0)


def test_it_takes_the_adapters_settings_where_none_are_given(tiny_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(
        tiny_dir, tmp_path / "adapter", r=5, lora_alpha=9, use_rslora=True, target_modules=["k_proj"]
    )
    lora = begin(tmp_path / "memory", tiny_dir, adapter).config.lora
    assert (lora.r, lora.alpha, lora.rslora, lora.target_modules) == (5, 9, True, ("k_proj",))


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_it_is_weighed_exactly(weight: float, tiny_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    memory = begin(tmp_path / "memory", tiny_dir, adapter)
    memory.compose({"imported": weight}, out=tmp_path / "composed")
    half = peft.utils.load_peft_weights(str(adapter))
    weighed = {name: t * weight if "lora_B" in name else t for name, t in half.items()}
    config = peft.LoraConfig.from_pretrained(str(adapter))
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    tuned: Any = peft.get_peft_model(model, config).eval()
    peft.set_peft_model_state_dict(tuned, weighed)
    with torch.no_grad():
        right = tuned(input_ids=IDS).logits[0]
    assert torch.allclose(stock_logits(tiny_dir, tmp_path / "composed", IDS), right, atol=1e-5, rtol=0)


def test_it_is_rolled_back_and_verified(tiny_dir: Path, tmp_path: Path) -> None:
    memory = begin(tmp_path / "memory", tiny_dir, save_adapter(tiny_dir, tmp_path / "adapter"))
    memory.learn(tiny_task("tone"))
    memory.rollback("base" if "base" in memory.tags() else ROOT)
    assert memory.tasks() == []
    memory.learn(tiny_task("fresh"))  # on the base model alone: the adapter was taken back on purpose
    assert memory.tasks() == ["fresh"] and memory.verify() == []
    memory.rollback("0002-tone")
    assert memory.tasks() == ["imported", "tone"]


def test_the_files_are_not_needed_again(tiny_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    right = stock_logits(tiny_dir, adapter, IDS)
    begin(tmp_path / "memory", tiny_dir, adapter)
    adapter.rename(tmp_path / "gone")
    memory = Memory.open(tmp_path / "memory")
    memory.learn(tiny_task("tone"))
    assert torch.allclose(our_logits(memory, "imported"), right, atol=1e-5, rtol=0)
    assert memory._store.identity["adapter"]["source"] == str(adapter)


@pytest.mark.parametrize("given", [False, True], ids=["without rows", "with rows"])
@pytest.mark.parametrize("strategy", [name for name, cls in STRATEGIES.items() if cls.sums_updates])
def test_every_strategy_with_one_adapter_goes_on_from_it(
    strategy: str, given: bool, tiny_dir: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    kept = write(tmp_path / "old.jsonl", "old") if given else None
    memory = begin(tmp_path / "memory", tiny_dir, adapter, f"strategy.name={strategy}", adapter_rows=kept)
    assert torch.allclose(our_logits(memory, "imported"), stock_logits(tiny_dir, adapter, IDS), atol=1e-5, rtol=0)
    memory.learn(tiny_task("tone"))
    memory.learn(tiny_task("form"))
    assert memory.tasks() == ["imported", "tone", "form"]
    scores = memory.scores()
    assert all(row[0] == row[0] for row in scores) == given  # NaN without rows
    assert scores[2][1] == scores[2][1]


@pytest.mark.parametrize("strategy", [name for name, cls in STRATEGIES.items() if not cls.sums_updates])
def test_other_strategies_refuse_it(strategy: str, tiny_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    with pytest.raises(ConfigError, match="cannot begin with the adapter"):
        begin(tmp_path / "memory", tiny_dir, adapter, f"strategy.name={strategy}")
    assert not (tmp_path / "memory").exists()


def test_its_rows_are_replayed(tiny_dir: Path, tmp_path: Path) -> None:
    adapter, old = save_adapter(tiny_dir, tmp_path / "adapter"), write(tmp_path / "old.jsonl", "old")
    memory = begin(tmp_path / "memory", tiny_dir, adapter, adapter_rows=old)
    kept = memory._store.load_lines(memory._store.head, REPLAY)[1:]
    assert {line["task"] for line in kept} == {"imported"}
    memory.learn(tiny_task("tone"))
    assert memory.show("tone")["data"]["from_replay"] == len(kept) > 0


def test_the_reference_has_the_adapter(tiny_dir: Path, tmp_path: Path) -> None:
    memory = begin(tmp_path / "memory", tiny_dir, save_adapter(tiny_dir, tmp_path / "adapter"))
    session = Session(memory.config, NullProgress())
    session.join(memory._store)
    pairs, _ = session.encoder.encode(rows("tone", 3))
    session.load(memory._store, memory._store.head)
    found = session.view.reference(pairs, title="reference")
    assert torch.equal(found, session.view.logps(pairs, base=False, title="policy"))
    assert not torch.allclose(found, session.view.logps(pairs, base=True, title="base"), atol=1e-2)
    memory.learn(tiny_task("tone"))
    first = memory._store.load_lines(memory._store.head, "training.jsonl")[0]
    assert first["margin"] == pytest.approx(0, abs=1e-6)  # the first step starts where the reference is
    session.load(memory._store, memory._store.find(ROOT))
    with adapter_off(session.model):
        pass
    memory.rollback(ROOT)
    session.load(memory._store, memory._store.head)
    assert torch.equal(
        session.view.reference(pairs, title="reference"), session.view.logps(pairs, base=True, title="base")
    )


def test_routing_keeps_an_adapter_without_rows(tiny_dir: Path, tmp_path: Path) -> None:
    memory = begin(tmp_path / "memory", tiny_dir, save_adapter(tiny_dir, tmp_path / "adapter"))
    memory.learn(tiny_task("tone"))
    plain, routed = (memory.generate(["tone question 1?"], route=r, max_new_tokens=8) for r in (False, True))
    assert plain == routed


REFUSED: dict[str, tuple[Callable[[], Any] | dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "DoRA adapter, whose magnitudes"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "holds whole modules"),
    "biases": ({"bias": "lora_only"}, 'has bias="lora_only": it holds biases'),
    "bias of the factors": ({"lora_bias": True}, "holds biases"),
    "embeddings": ({"target_modules": ["embed_tokens"]}, "no linear module"),
    "rows of the embeddings": ({"trainable_token_indices": [3]}, "rows of the embeddings"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa', which changed the base weights"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights='olora', which changed the base weights"),
    "a prompt": (
        lambda: peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
        "of the type PROMPT_TUNING, not LORA",
    ),
    "ia3": (
        lambda: peft.IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
        ),
        "of the type IA3, not LORA",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_more_than_lora_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    made, reason = REFUSED[case]
    base = tmp_path / "base"
    config = transformers.LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=False)
    tiny_model(config).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    options = made if isinstance(made, dict) else {}
    adapter = save_adapter(base, tmp_path / "adapter", None if isinstance(made, dict) else made(), **options)
    data = write(tmp_path / "rows.jsonl", "tone")
    call = ("learn", tmp_path / "memory", data, "--name", "tone", "--base-model", base, "--from-adapter", adapter)
    result = lifealign(*call)
    assert result.exit_code == 2 and reason in result.stderr, result.output
    assert not (tmp_path / "memory").exists()


def test_modules_outside_the_text_part_are_refused(tmp_path: Path) -> None:
    base = wrapper(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])  # in the vision tower too
    with pytest.raises(
        ConfigError, match=r"changes .*vision.*gets no adapter in this memory; set lora.target_modules|merge"
    ):
        begin(tmp_path / "memory", base, adapter)


def test_an_adapter_of_another_model_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    deep = transformers.LlamaConfig(**{**SMALL, "num_hidden_layers": 3}, **HEADS)
    other = tmp_path / "other"
    tiny_model(deep).save_pretrained(other)
    with pytest.raises(ModelError, match=r"does not fit base model .* tensors have no place there"):
        begin(tmp_path / "memory", tiny_dir, save_adapter(other, tmp_path / "deep"))
    narrow = transformers.LlamaConfig(**{**SMALL, "hidden_size": 16}, **HEADS)
    tiny_model(narrow).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ModelError, match="cannot be loaded on base model"):
        begin(tmp_path / "memory", tiny_dir, save_adapter(tmp_path / "narrow", tmp_path / "slim"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lora.r=2", "has rank 3; set lora.r=3 or more"),
        ("lora.target_modules=[q_proj]", r'set lora.target_modules=\["q_proj", "v_proj"\]'),
    ],
)
def test_settings_without_room_for_it_are_refused(setting: str, message: str, tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        begin(tmp_path / "memory", tiny_dir, save_adapter(tiny_dir, tmp_path / "adapter"), setting)
    assert not (tmp_path / "memory").exists()


# --- an adapter where a base model is asked for -----------------------------------------------------------------------


def test_an_adapter_is_no_base_model_without_a_word(tiny_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"holds a PEFT adapter .* --from-adapter"):
        load_base(ModelConfig(name=str(adapter)))


def test_the_folder_itself_gives_both(tiny_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    data = write(tmp_path / "rows.jsonl", "tone")
    call = ("learn", tmp_path / "memory", data, "--name")
    result = lifealign(*call, "tone", "--base-model", adapter)
    assert result.exit_code == 0, result.output
    assert "it becomes the task imported, with lora.r=3" in result.stderr
    memory = Memory.open(tmp_path / "memory")
    assert memory.tasks() == ["imported", "tone"]
    assert (memory.config.model.name, memory.config.model.adapter) == (str(tiny_dir), str(adapter))
    assert torch.allclose(our_logits(memory, "imported"), stock_logits(tiny_dir, adapter, IDS), atol=1e-5, rtol=0)
    again = lifealign(*call, "form", "--base-model", adapter)
    assert again.exit_code == 0, again.output
    other = save_adapter(tiny_dir, tmp_path / "other", r=2)
    refused = lifealign(*call, "more", "--from-adapter", other)
    assert refused.exit_code == 2 and "is another one, or was changed since" in refused.stderr


def test_a_memory_without_one_takes_none(tiny_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    data = write(tmp_path / "rows.jsonl", "tone")
    call = ("learn", tmp_path / "memory", data, "--name")
    assert lifealign(*call, "tone", "--base-model", tiny_dir).exit_code == 0
    result = lifealign(*call, "form", "--from-adapter", adapter)
    assert result.exit_code == 2 and "began without an adapter" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model_name_or_path": None}, "names no base model; give it: --base-model BASE --from-adapter"),
        ({"base_model_name_or_path": "/gone/model"}, "'/gone/model': no such directory"),
    ],
)
def test_a_folder_whose_base_is_not_there_is_refused(
    change: dict[str, Any], message: str, tiny_dir: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    data = write(tmp_path / "rows.jsonl", "tone")
    result = lifealign("learn", tmp_path / "memory", data, "--name", "tone", "--base-model", adapter)
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert not (tmp_path / "memory").exists()


def test_a_folder_with_a_model_and_an_adapter_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    both = save_adapter(tiny_dir, save_tiny(tmp_path / "both"))
    with pytest.raises(ModelError, match=r"holds both a model .* and a PEFT adapter"):
        Memory.create(tmp_path / "memory", tiny_config(both, tmp_path / "memory"))


def test_a_template_of_the_adapter_is_not_dropped_without_a_word(tiny_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    tiny_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}").save_pretrained(adapter)
    memory = begin(tmp_path / "memory", tiny_dir, adapter)
    notes = memory.show("imported")["imported"]["notes"]
    assert any("has a chat template of its own, which is not used" in note for note in notes)


# --- runs, failures and kills -----------------------------------------------------------------------------------------


def test_a_run_begins_with_it_and_goes_on(tiny_dir: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    data = [write(tmp_path / f"{name}.jsonl", name) for name in ("tone", "form")]
    config = tmp_path / "run.yaml"
    stream = [{"name": d.stem, "train": {"path": str(d)}, "validation_rows": 0, "test_rows": 2} for d in data]
    config.write_text(
        json.dumps(
            {
                "memory": str(tmp_path / "m"),
                "model": {"name": str(tiny_dir), "adapter": str(adapter)},
                "stream": {"tasks": stream},
            }
        )
    )
    assert lifealign("run", config).exit_code == 0
    memory = Memory.open(tmp_path / "m")
    assert memory.tasks() == ["imported", "tone", "form"]
    again = lifealign("run", config)
    assert again.exit_code == 0, again.output
    assert Memory.open(tmp_path / "m")._store.head.directory == memory._store.head.directory
    save_adapter(tiny_dir, adapter, r=1)
    changed = lifealign("run", config)
    assert changed.exit_code == 2 and "was changed since" in changed.stderr


def test_a_creation_that_fails_leaves_nothing(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    data = write(tmp_path / "rows.jsonl", "tone")
    missing = "guard.text=gone.txt"
    call = (
        "learn",
        tmp_path / "new" / "memory",
        data,
        "--name",
        "tone",
        "--base-model",
        tiny_dir,
        "--from-adapter",
        adapter,
    )
    result = lifealign(*call, settings=(*SETTINGS, missing))
    assert result.exit_code == 2 and not (tmp_path / "new").exists()

    def fail(*args: Any) -> Any:
        raise StoreError("no room")

    monkeypatch.setattr(learning, "learn_group", fail)  # after the adapter is committed
    result = lifealign(*call)
    assert result.exit_code == 2 and "no room" in result.stderr and not (tmp_path / "new").exists()


def test_a_kill_between_creation_and_commit_is_made_good(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    right = stock_logits(tiny_dir, adapter, IDS)
    with monkeypatch.context() as patch:
        patch.setattr(learning, "adopt_pending", lambda session, store, config: store)
        begin(tmp_path / "memory", tiny_dir, adapter)
    memory = Memory.open(tmp_path / "memory")
    assert memory.tasks() == [] and adopting.pending(memory._store)
    adapter.rename(tmp_path / "gone")
    memory.learn(tiny_task("tone"))
    assert memory.tasks() == ["imported", "tone"]
    assert torch.allclose(our_logits(memory, "imported"), right, atol=1e-5, rtol=0)


def test_before_it_the_initial_adapter_changes_nothing(tiny_dir: Path, tmp_path: Path) -> None:
    memory = begin(tmp_path / "memory", tiny_dir, save_adapter(tiny_dir, tmp_path / "adapter"))
    root, first = memory._store.lineage()
    before, after = (memory._store.load_tensors(m, ADAPTER) for m in (root, first))
    assert all(bool((t == 0).all()) for name, t in before.items() if name.endswith("lora_B"))
    assert all(torch.equal(t, after[name]) for name, t in before.items() if name.endswith("lora_A"))
