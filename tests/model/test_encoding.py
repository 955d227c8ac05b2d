"""Rows as ids: template once, boundary in token space, EOS once, cuts counted; packed layout."""

from __future__ import annotations

import pytest

from lifealign.core.errors import DataError
from lifealign.data.tasks import Message, Row
from lifealign.model.encoding import Encoder
from lifealign.model.packing import pack_pairs, split_by_budget
from support.tiny import TEMPLATE, make_tokenizer

USER = (Message("user", "how do I bake bread"),)


def encoder(template: str | None = TEMPLATE, kind: str = "chat", max_length: int = 256, **options: str) -> Encoder:
    return Encoder(make_tokenizer(template), kind, max_length, **options)


def test_prompt_and_answer_are_the_template_applied_once() -> None:
    enc = encoder()
    (pair,), report = enc.encode([Row(USER, "in an oven", "no", "f:1")])
    decode = enc.tokenizer.decode
    assert decode(pair.prompt) == "<|im_start|>user\nhow do I bake bread<|im_end|>\n<|im_start|>assistant\n"
    assert decode(pair.chosen) == "in an oven<|im_end|>"
    assert decode(pair.rejected) == "no<|im_end|>"
    assert not pair.chosen_cut and not pair.rejected_cut
    assert report.to_json() == {"cut": [], "long_prompt": [], "boundary": []}


def test_plain_template_ends_with_eos_once() -> None:
    enc = encoder(None, "plain")
    (pair,), _ = enc.encode([Row(USER, "in an oven", "no", "f:1")])
    assert enc.tokenizer.decode(pair.prompt) == "User: how do I bake bread\nAssistant:"
    assert enc.tokenizer.decode(pair.chosen) == " in an oven<|im_end|>"
    assert list(pair.chosen).count(enc.tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("writes_bos", [True, False])
def test_bos_stands_in_front_exactly_once(writes_bos: bool) -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer(("{{ bos_token }}" if writes_bos else "") + TEMPLATE)
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    # The template's own first token is the turn marker, which is BOS here: a template without BOS gets none on top.
    ids = Encoder(tokenizer, "chat", 256).prompt_ids(USER)
    text = tokenizer.decode(ids)
    assert text.count("<|im_start|>") == (3 if writes_bos else 2)
    plain = Encoder(tokenizer, "plain", 256).prompt_ids(USER)
    assert plain[0] == tokenizer.bos_token_id and plain.count(tokenizer.bos_token_id) == 1


def test_a_template_that_refuses_a_prompt_is_one_message_with_the_row() -> None:
    refusing = encoder("{{ raise_exception('System role not supported') }}")
    with pytest.raises(DataError, match=r"f:1: the model's chat template refuses the prompt: System role"):
        refusing.encode([Row(USER, "in an oven", "no", "f:1")])


def test_what_encoding_did_is_said_in_lines() -> None:
    full, _ = encoder().encode([Row(USER, "in an oven", "no", "f:1")])
    _, report = encoder(max_length=len(full[0].prompt) + 1).encode([Row(USER, "in an oven", "no", "f:1")])
    assert report.lines("tone: test") == ["tone: test: 1 row: an answer was cut at data.max_length (f:1)"]
    assert encoder().encode([Row(USER, "in an oven", "no", "f:1")])[1].lines("tone: test") == []


def test_a_cut_answer_keeps_a_token_and_loses_its_eos() -> None:
    full, _ = encoder().encode([Row(USER, "in an oven", "no", "f:1")])
    length = len(full[0].prompt) + 1
    (pair,), report = encoder(max_length=length).encode([Row(USER, "in an oven", "no", "f:1")])
    assert len(pair.chosen) == len(pair.rejected) == 1
    assert pair.chosen_cut and pair.rejected_cut
    assert encoder().tokenizer.eos_token_id not in (*pair.chosen, *pair.rejected)
    assert report.cut == ("f:1",)


def test_a_long_prompt_is_refused_by_row_or_dropped_and_counted() -> None:
    rows = [Row(USER, "yes", "no", "f:1"), Row((Message("user", "long " * 50),), "yes", "no", "f:2")]
    with pytest.raises(DataError, match=r"f:2: the prompt has \d+ tokens.*data.max_length=100.*data.long_prompts=drop"):
        encoder(max_length=100).encode(rows)
    pairs, report = encoder(max_length=100, long_prompts="drop").encode(rows)
    assert len(pairs) == 1 and report.long_prompt == ("f:2",)
    with pytest.raises(DataError, match="none of 1 rows"):
        encoder(max_length=100, long_prompts="drop").encode(rows[1:])


def test_eos_inside_an_answer_drops_the_row() -> None:
    rows = [Row(USER, "yes<|im_end|> and more", "no", "f:1"), Row(USER, "yes", "no", "f:2")]
    pairs, report = encoder().encode(rows)
    assert len(pairs) == 1 and report.boundary == ("f:1",)


def test_no_token_boundary_drops_the_row() -> None:
    # This template glues the prompt's end to the answer, so that a merge may run over the boundary.
    glued = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    enc = encoder(glued)
    merged = Row((Message("user", "the a"),), "nswer", "xyz", "f:1")
    ids = enc.tokenizer("the answer")["input_ids"]
    assert ids[: len(enc.tokenizer("the a")["input_ids"])] != enc.tokenizer("the a")["input_ids"], "no merge: no case"
    with pytest.raises(DataError, match="1 rows have no token boundary"):
        enc.encode([merged])


def test_packed_layout_shares_prompt_and_root() -> None:
    rows = [Row((Message("user", f"how {c}"),), "one two", "three", "f") for c in "abc"]
    enc = encoder()
    pairs, _ = enc.encode(rows)
    pack = pack_pairs(pairs, range(3), shared_prefix=True)
    ids, positions = pack.input_ids[0].tolist(), pack.position_ids[0].tolist()
    root = pack.segments[0]
    assert enc.tokenizer.decode(ids[: root.end]).startswith("<|im_start|>user\nhow")
    for number, pair in enumerate(pairs):
        first, second = pack.segments[1 + 2 * number : 3 + 2 * number]
        path = ids[: root.end] + ids[first.start : first.end]
        assert path == [*pair.prompt, *pair.chosen[:-1]]
        assert positions[first.start : first.end] == list(range(root.end, len(path)))
        assert ids[second.start : second.end] == list(pair.rejected[:-1])
        assert positions[second.start] == len(pair.prompt)
        seen = [c for a, b in second.context for c in ids[a:b]]
        assert seen == list(pair.prompt)
    assert pack.sizes == tuple(len(a) for p in pairs for a in (p.chosen, p.rejected))
    assert pack.target_T.tolist() == [t for p in pairs for a in (p.chosen, p.rejected) for t in a]
    plain = pack_pairs(pairs, range(3), shared_prefix=False)
    assert pack.tokens < plain.tokens / 1.5


def test_groups_keep_order_and_budget() -> None:
    rows = [Row(USER, "yes " * n, "no", f"f:{n}") for n in (1, 30, 2, 3, 4)]
    pairs, _ = encoder().encode(rows)
    groups = list(split_by_budget(pairs, [4, 1, 0, 2, 3], 90, shared_prefix=True))
    assert [i for g in groups for i in g] == [4, 1, 0, 2, 3]
    assert [1] in groups  # longer than the budget: alone
    assert any(len(g) > 1 for g in groups)
