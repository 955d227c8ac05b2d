"""What a base model can read, settled when it is loaded: ids of its tokenizer, length of its context, its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from transformers import AutoTokenizer, PreTrainedModel

from lifealign.core.config import ModelConfig, RunConfig
from lifealign.core.errors import DataError, ModelError
from lifealign.core.progress import NullProgress
from lifealign.data.tasks import Message, Row
from lifealign.memory.api import Memory
from lifealign.memory.session import Session
from lifealign.model.base import load_base
from lifealign.model.names import with_local_path
from lifealign.testing import tiny_model
from support.tiny import make_tokenizer, save_tiny

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, **HEADS}


def with_tokens(
    directory: Path, *, added: tuple[str, ...] = (), template: str | None = None, eos: bool = False
) -> Path:
    """A tiny model whose tokenizer has tokens added after the embedding was made."""
    tokenizer = make_tokenizer()
    rows = len(tokenizer)
    config = transformers.LlamaConfig(vocab_size=rows, max_position_embeddings=512, **SMALL)
    tiny_model(config, 0).save_pretrained(directory)
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    if eos:
        tokenizer.eos_token = added[0]
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return directory


def load(model: Path) -> PreTrainedModel:
    return load_base(ModelConfig(name=str(model), dtype="float32")).model


def test_ordinary_tokens_beyond_the_embedding_are_refused(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(vocab_size=200, max_position_embeddings=512, **SMALL)
    tiny_model(config, 0).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"ids up to \d+, but its embedding has 200 rows, and .* \(id 200\) is an ordin"
    ):
        load(tmp_path)


def test_an_end_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"'<end>' \(id \d+\) is the beginning or end of a text; use the tokenizer that"
    ):
        load(with_tokens(tmp_path, added=("<end>",), eos=True))


def test_a_token_of_the_template_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    template = "{% for m in messages %}<turn>{{ m['content'] }}{% endfor %}"
    with pytest.raises(ModelError, match=r"'<turn>' \(id \d+\) is written by the chat template"):
        load(with_tokens(tmp_path, added=("<turn>",), template=template))


def test_an_added_token_that_nothing_needs_is_named_and_refused_with_its_row(tmp_path: Path) -> None:
    model = with_tokens(tmp_path / "model", added=("<image>",))
    session = Session(RunConfig(model=ModelConfig(name=str(model), dtype="float32")), NullProgress())
    assert (
        len(session.base.notes) == 1 and "rows with one of these tokens are refused: '<image>'" in session.base.notes[0]
    )
    good = Row((Message("user", "a"),), "yes", "no", "rows.jsonl:1")
    assert len(session.encoder.encode([good])[0]) == 1
    bad = Row((Message("user", "a"),), "an <image> here", "no", "rows.jsonl:7")
    with pytest.raises(DataError, match=r"^rows.jsonl:7: '<image>' is a token without an embedding; remove it"):
        session.encoder.encode([good, bad])
    with pytest.raises(DataError, match="'<image>' is a token without"):
        session.generate(["what is in this <image>?"], max_new_tokens=2)


def test_a_tokenizer_smaller_than_the_embedding_needs_no_word(tiny_dir: Path) -> None:
    assert len(AutoTokenizer.from_pretrained(tiny_dir)) <= 300
    assert load_base(ModelConfig(name=str(tiny_dir), dtype="float32")).notes == ()


def test_context_is_that_of_the_part_that_reads_text(tmp_path: Path) -> None:
    text = {**SMALL, "vocab_size": 300, "max_position_embeddings": 96, "head_dim": 8}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    base = load_base(ModelConfig(name=str(tmp_path), dtype="float32"))
    assert not hasattr(base.model.config, "max_position_embeddings") and base.positions == 96


@pytest.mark.parametrize(("kind", "length"), [("llama", 512), ("gpt2", 512)])
def test_context_of_other_kinds(kind: str, length: int, tmp_path: Path) -> None:
    assert load_base(ModelConfig(name=str(save_tiny(tmp_path, kind)), dtype="float32")).positions == length


def test_context_without_a_limit(tmp_path: Path) -> None:
    assert load_base(ModelConfig(name=str(save_tiny(tmp_path, "bloom")), dtype="float32")).positions > 10**9


@pytest.mark.parametrize("given", ["model", "./model", "../here/model"])
def test_memory_on_a_relative_path_opens_from_another_folder(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    save_tiny(here / "model")
    monkeypatch.chdir(here)
    made = Memory.create("memory", RunConfig(model=ModelConfig(name=given, dtype="float32")))
    assert made.config.model.name == str(here / "model")
    monkeypatch.chdir(there)
    memory = Memory.open(here / "memory")
    assert len(memory.generate(["how do I bake bread?"], max_new_tokens=2)) == 1
    store = json.loads((here / "memory" / "store.json").read_text())
    assert json.dumps(store).count(str(here / "model")) >= 2  # in the base's identity and in the configuration


def test_names_that_are_no_relative_paths_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m").mkdir()
    for name in ("smollm2-135m", "someone/model", str(tmp_path)):
        assert with_local_path(ModelConfig(name=name)).name == name
