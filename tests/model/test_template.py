"""Chat templates of every kind: where an answer begins, whether it is whole, how it ends, and the date in a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from lifealign.core.errors import DataError, ModelError
from lifealign.data.reasoning import Reasoned, split_reasoning
from lifealign.data.tasks import Message, Row
from lifealign.model.encoded import CUT_REASONING, EMPTY, MIXED, NO_ROOM, NOT_WHOLE
from lifealign.model.encoding import Encoder
from lifealign.model.packing import pack_pairs
from lifealign.model.template import once, with_date
from support.tiny import TEMPLATE, make_tokenizer

USER = Message("user", "how do I bake")
SYSTEM = Message("system", "be brief")
PLAIN = Row((USER,), "in an oven", "no", "f:1")
WITH_SYSTEM = Row((SYSTEM, USER), "in an oven", "no", "f:2")
HISTORY = Row((USER, Message("assistant", "<think>hm</think>how?"), USER), "in an oven", "no", "f:3")
REASONED = Row((USER,), "<think>\nhot\n</think>\n\nin an oven", "<think>cold</think>no", "f:4")
ONE_REASONED = Row((USER,), "<think>\nhot\n</think>\n\nin an oven", "no", "f:5")

TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ASKED = "<|im_start|>user\nhow do I bake<|im_end|>\n"
HEADER = "<|im_start|>assistant\n"


def loop(user: str, assistant: str, generation: str = OPEN) -> str:
    turns = f"{{% if m.role == 'assistant' %}}{assistant}{{% else %}}{user}{{% endif %}}"
    return f"{{% for m in messages %}}{turns}{{% endfor %}}{generation}"


THINKS = OPEN.replace("assistant\n", "assistant\n<think>\n")
EMPTY_BLOCK = loop(TURN, TURN.replace("{{ m.content", "<think>\n\n</think>\n\n{{ m.content"), THINKS)
CUTS = TURN.replace("m.content", "m.content.split('</think>')[-1]")
WHOLE_BLOCK = loop(
    TURN,
    "{% if '</think>' in m.content %}{% set r, c = m.content.split('</think>')[0].split('<think>')[-1] | trim, "
    "m.content.split('</think>')[-1] | trim %}{% else %}{% set r, c = '', m.content %}{% endif %}"
    "<|im_start|>assistant\n{% if loop.last %}<think>\n{{ r }}\n</think>\n\n{% endif %}{{ c }}<|im_end|>\n",
)
SYSTEM_IN_LAST_TURN = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}{% set ms = messages[1:] %}"
    "{% else %}{% set s = '' %}{% set ms = messages %}{% endif %}"
    "{% for m in ms %}{% if m.role == 'user' %}[A] {{ s if loop.last }}{{ m.content }}[/A]"
    "{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Kind:
    """A template, and what is trained with it on `row`: the prompt, and the chosen answer."""

    template: str
    prompt: str
    chosen: str = "in an oven<|im_end|>"
    row: Row = PLAIN
    options: tuple[tuple[str, Any], ...] = ()


SYSTEM_TURN = "<|im_start|>system\nbe brief<|im_end|>\n"
KINDS = {
    "chatml": Kind(TEMPLATE, ASKED + HEADER),
    "opens a block, closes it in a finished turn": Kind(EMPTY_BLOCK, ASKED + HEADER + "<think>\n\n</think>\n\n"),
    "opens a block that a finished turn lacks": Kind(loop(TURN, TURN, THINKS), ASKED + HEADER),
    "opens a block of another name": Kind(
        loop(TURN, TURN, THINKS.replace("<think>", "<ponder>")),
        ASKED + HEADER,
    ),
    "opens a block, and the answer has one": Kind(
        EMPTY_BLOCK, ASKED + HEADER + "<think>\n", "hot\n</think>\n\nin an oven<|im_end|>", REASONED
    ),
    "opens a block, and one answer has one": Kind(
        EMPTY_BLOCK, ASKED + HEADER + "<think>\n", "hot\n</think>\n\nin an oven<|im_end|>", ONE_REASONED
    ),
    "opens a block, and the answer's is dropped": Kind(
        EMPTY_BLOCK,
        ASKED + HEADER + "<think>\n\n</think>\n\n",
        row=REASONED,
        options=(("reasoning", "drop"),),
    ),
    "writes an empty block that it does not open": Kind(
        WHOLE_BLOCK, ASKED + HEADER, "<think>\n\n</think>\n\nin an oven<|im_end|>"
    ),
    "writes the answer's block in its own way": Kind(
        WHOLE_BLOCK, ASKED + HEADER, "<think>\nhot\n</think>\n\nin an oven<|im_end|>", REASONED
    ),
    "cuts reasoning out of earlier turns": Kind(
        WHOLE_BLOCK,
        ASKED + HEADER + "how?<|im_end|>\n" + ASKED + HEADER,
        "<think>\n\n</think>\n\nin an oven<|im_end|>",
        HISTORY,
    ),
    "has no generation prompt": Kind(loop(TURN, TURN, ""), ASKED + HEADER),
    "has no generation prompt, and a system turn": Kind(
        loop(TURN, TURN, ""), SYSTEM_TURN + ASKED + HEADER, row=WITH_SYSTEM
    ),
    "has no generation prompt, but a label and a space": Kind(
        loop("Q: {{ m.content }}\n", "A: {{ m.content }}\n", ""), "Q: how do I bake\nA:", " in an oven<|im_end|>"
    ),
    "needs no generation prompt": Kind(
        loop("[A] {{ m.content }} [/A]", " {{ m.content }}<|im_end|>", ""),
        "[A] how do I bake [/A]",
        " in an oven<|im_end|>",
    ),
    "moves the system text where no answer follows": Kind(
        SYSTEM_IN_LAST_TURN, "[A] be brief\n\nhow do I bake[/A]", " in an oven<|im_end|>", WITH_SYSTEM
    ),
    "repeats the system text": Kind(
        loop("{{ messages[0].content }}|{{ m.content }}\n", "{{ m.content }}<|im_end|>", "A\n").replace("A\n", "", 1),
        "be brief|be brief\nbe brief|how do I bake\n",
        row=WITH_SYSTEM,
    ),
    "refuses a system turn, which is merged": Kind(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE,
        "<|im_start|>user\nbe brief\n\nhow do I bake<|im_end|>\n" + HEADER,
        row=WITH_SYSTEM,
        options=(("system", "merge"),),
    ),
    "trims white space": Kind(
        TEMPLATE.replace("m['content']", "m['content'] | trim"),
        ASKED + HEADER,
        row=Row((USER,), "  in an oven\n", "no ", "f:6"),
    ),
    "writes an end that is not the tokenizer's": Kind(
        TEMPLATE.replace("<|im_end|>", "<end>"),
        (ASKED + HEADER).replace("<|im_end|>", "<end>"),
        "in an oven<end>",
    ),
    "writes two ends": Kind(
        TEMPLATE.replace("<|im_end|>\n", "<end>\n<|im_end|>"),
        "<|im_start|>user\nhow do I bake<end>\n<|im_end|>" + HEADER,
        "in an oven<end>",
    ),
    "writes no end": Kind(
        TEMPLATE.replace("<|im_end|>", ""), "<|im_start|>user\nhow do I bake\n" + HEADER, "in an oven<|im_end|>"
    ),
}


def encoder(template: str, **options: Any) -> Encoder:
    tokenizer = make_tokenizer(template)
    tokenizer.add_tokens([AddedToken("<end>", special=False)])
    return Encoder(tokenizer, "chat", 256, **options)


@pytest.mark.parametrize("name", list(KINDS))
def test_an_answer_begins_and_ends_where_the_template_writes_it(name: str) -> None:
    kind = KINDS[name]
    enc = encoder(kind.template, **dict(kind.options))
    (pair,), report = enc.encode([kind.row])
    decode = enc.tokenizer.decode
    assert decode(pair.prompt) == kind.prompt
    assert decode(pair.chosen) == kind.chosen
    assert "no" in decode(pair.rejected) and pair.rejected[-1] == pair.chosen[-1]
    assert sum(i in enc.ends for i in pair.chosen) == 1
    assert report.boundary == () and not report.refused
    # Generation continues the prompt that was learnt.
    assert tuple(enc.prompt_ids(kind.row.prompt, enc.reasons(kind.row))) == pair.prompt


@pytest.mark.parametrize("template", [TEMPLATE.replace("assistant\n", "assistant\n\n"), EMPTY_BLOCK])
def test_a_prompt_may_end_with_line_breaks_that_a_tokenizer_joins_only_at_the_end(template: str) -> None:
    """Byte-level tokenizers like GPT-2's read two line breaks as one token, but not before a word."""
    template = template.replace("role'] }}\n", "role'] }}\n\n")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|im_end|>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(["\n\n"] * 50, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>")
    tokenizer.chat_template = template
    assert len(tokenizer("\n\n")["input_ids"]) == 1 and len(tokenizer("\n\nin")["input_ids"]) == 4
    enc = Encoder(tokenizer, "chat", 256)
    (pair,), report = enc.encode([PLAIN])
    assert tokenizer.decode(pair.prompt).endswith("\n\n") and pair.prompt[-2:] == pair.prompt[-1:] * 2
    assert tokenizer.decode(pair.chosen) == "in an oven<|im_end|>"
    assert report.lines("t: training") == []
    assert tuple(enc.prompt_ids((USER,))) == pair.prompt


REFUSED = {
    "cuts the answer": (TEMPLATE.replace("m['content']", "m['content'][:5]"), PLAIN, NOT_WHOLE),
    "writes no answer": (loop(TURN, ""), PLAIN, NOT_WHOLE),
    "changes the answer": (TEMPLATE.replace("m['content']", "m['content'] | upper"), PLAIN, NOT_WHOLE),
    "cuts the answer's reasoning": (loop(TURN, CUTS), REASONED, CUT_REASONING),
    "shows no way around a block": (loop(TURN, CUTS, THINKS), ONE_REASONED, MIXED),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_row_that_a_template_does_not_write_whole_is_left_out_with_the_reason(name: str) -> None:
    template, row, reason = REFUSED[name]
    enc = encoder(template)
    pairs, report = enc.encode([row], allow_none=True)
    assert pairs == [] and report.refused == {reason: (row.source,)}
    assert report.to_json()["refused"] == {reason: [row.source]}
    assert report.lines("tone: training") == [f"tone: training: 1 row: left out because {reason} ({row.source})"]
    with pytest.raises(DataError, match="none of 1 rows can be used") as raised:
        enc.encode([row])
    assert reason in str(raised.value) and row.source in str(raised.value)


@pytest.mark.parametrize("template", [loop(TURN, CUTS), loop(TURN, CUTS, THINKS)])
def test_reasoning_that_a_template_cuts_can_be_dropped(template: str) -> None:
    enc = encoder(template, reasoning="drop")
    (pair,), report = enc.encode([ONE_REASONED])
    assert enc.tokenizer.decode(pair.chosen) == "in an oven<|im_end|>"
    assert report.to_json()["reasoning"] == {"drop": ["f:5"]}
    assert enc.as_learnt(ONE_REASONED).chosen == "in an oven"


def test_a_refusal_has_the_row_the_templates_words_and_a_way_out() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    with pytest.raises(DataError) as raised:
        encoder(refusing + TEMPLATE).encode([PLAIN, WITH_SYSTEM])
    for part in ("f:2: ", "System role not supported", "leave the row out", "data.system=merge"):
        assert part in str(raised.value)
    with pytest.raises(DataError, match=r"f:1: .*refuses the prompt: 'now' is undefined; .*model.template=plain"):
        encoder(TEMPLATE + "{{ now.day }}").encode([PLAIN])


def test_a_template_that_leaves_out_a_system_text_is_named() -> None:
    enc = encoder(TEMPLATE.replace("for m in messages", "for m in messages if m['role'] != 'system'"))
    pairs, report = enc.encode([PLAIN, WITH_SYSTEM])
    assert len(pairs) == 2 and report.part == ("f:2",)
    assert report.lines("t: test") == [
        "t: test: 1 row: kept, but the model's chat template leaves out a part of the prompt (f:2)"
    ]


def test_a_template_with_chance_in_it_is_refused() -> None:
    with pytest.raises(ModelError, match=r"something else each time.*model.template=plain"):
        encoder(TEMPLATE + "{{ range(99999) | random }}, {{ range(99999) | random }}").encode([PLAIN])


@pytest.mark.parametrize("template", [TEMPLATE, WHOLE_BLOCK, EMPTY_BLOCK])
def test_masked_reasoning_is_read_and_is_no_target(template: str) -> None:
    enc = encoder(template, reasoning="mask")
    rows = [REASONED, ONE_REASONED]
    pairs, report = enc.encode(rows)
    decode = enc.tokenizer.decode
    assert report.lines("t: training") == [
        "t: training: 2 rows: an answer has reasoning, which is read, but not trained (data.reasoning=mask) (f:4, ...)"
    ]
    for pair in pairs:
        assert "hot" in decode(pair.chosen[: pair.chosen_context])
        assert decode(pair.chosen[pair.chosen_context :]) == "in an oven<|im_end|>"
        assert pair.chosen_tokens == len(pair.chosen) - pair.chosen_context
    for shared in (True, False):
        for chosen_only in (True, False):
            pack = pack_pairs(pairs, range(2), shared, chosen_only)
            sides = [(p.chosen, p.chosen_context) for p in pairs]
            if not chosen_only:
                sides = [s for p in pairs for s in ((p.chosen, p.chosen_context), (p.rejected, p.rejected_context))]
            wanted = [list(ids[context:]) for ids, context in sides]
            assert pack.sizes == tuple(map(len, wanted))
            assert pack.target_T.tolist() == [i for ids in wanted for i in ids]
            # The column before each target holds the token before it, in the answer or at the prompt's end.
            read = pack.input_ids.reshape(-1)[pack.source_T].tolist()
            starts = [0, *(sum(pack.sizes[: k + 1]) for k in range(len(wanted) - 1))]
            for start, (ids, context) in zip(starts, sides, strict=True):
                assert read[start] == (ids[context - 1] if context else read[start])
                assert read[start + 1] == ids[context]


def test_reasoning_that_fills_the_room_leaves_the_row_out() -> None:
    enc = encoder(TEMPLATE, reasoning="mask")
    length = len(enc.prompt_ids((USER,))) + 8
    pairs, report = Encoder(enc.tokenizer, "chat", length, reasoning="mask").encode([REASONED, PLAIN])
    assert [p.digest for p in pairs] == [PLAIN.digest]
    assert report.refused == {NO_ROOM: ("f:4",)}


def test_an_answer_that_is_nothing_but_reasoning_is_left_out_when_it_is_dropped() -> None:
    row = Row((USER,), "<think>hot</think>", "no", "f:7")
    assert encoder(TEMPLATE, reasoning="drop").encode([row], allow_none=True)[1].refused == {EMPTY: ("f:7",)}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>\na\n</think>\n\nb", Reasoned("a", "b")),
        ("a</think>b", Reasoned("a", "b")),
        ("[THINK]a[/THINK]b", Reasoned("a", "b")),
        ("<reasoning>a</reasoning>b", Reasoned("a", "b")),
        ("the tag </reasoning> closes", None),
        ("write <think> and </think> around it", None),
        ("b", None),
    ],
)
def test_reasoning_is_what_an_answer_begins_with(text: str, parts: Reasoned | None) -> None:
    assert split_reasoning(text) == parts


class Later(chat_template_utils.datetime):  # type: ignore[misc]
    """The clock of transformers, a month later."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls(2031, 5, 6, 7, 8, 9)


@pytest.mark.parametrize("before", ["", "\n", "  ", "{% if true %}x{% endif %}\n"])
def test_a_date_is_fixed_in_the_templates_own_language(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = before + "{%- set now = strftime_now('%d %b %Y, %H:%M %j 100%% %-d') %}[{{ now }}]" + TEMPLATE
    enc = encoder(template, day=date(2026, 3, 4))
    text = enc.chat.render((USER,), generation=True) if enc.chat else ""
    assert "[04 Mar 2026, 00:00 063 100% 4]" in text
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    assert enc.chat is not None and enc.chat.render((USER,), generation=True) == text
    # But for the clock, the text is what transformers renders.
    chat_template_utils._compile_jinja_template.cache_clear()
    theirs = make_tokenizer(template).apply_chat_template(
        [{"role": "user", "content": USER.content}], tokenize=False, add_generation_prompt=True
    )
    ours = encoder(template, day=date(2031, 5, 6))
    assert ours.chat is not None
    assert ours.chat.render((USER,), generation=True) == theirs.replace("07:08", "00:00")


def test_of_several_templates_the_default_is_used_or_one_is_asked_for() -> None:
    tokenizer = make_tokenizer(TEMPLATE)
    tokenizer.chat_template = {"default": TEMPLATE, "other": "x"}
    assert Encoder(tokenizer, "chat", 256).encode([PLAIN])[0] == encoder(TEMPLATE).encode([PLAIN])[0]
    tokenizer.chat_template = {"one": TEMPLATE, "other": "x"}
    with pytest.raises(ModelError, match="several chat templates and none is named default"):
        Encoder(tokenizer, "chat", 256)


def test_a_template_without_a_clock_keeps_its_text() -> None:
    enc = encoder(TEMPLATE)
    assert not enc.writes_date and enc.chat is not None and enc.chat.pinned == TEMPLATE
    assert with_date(TEMPLATE, date(2026, 3, 4)).endswith("\n" + TEMPLATE)


def test_what_a_template_does_is_said() -> None:
    def said(template: str) -> list[str]:
        chat = encoder(template).chat
        return once(chat) if chat else []

    assert said(TEMPLATE) == []
    assert "opens <think> in the generation prompt" in said(EMPTY_BLOCK)[0]
    assert "no generation prompt" in said(loop(TURN, TURN, ""))[0]
    assert said(TEMPLATE.replace("<|im_end|>", "<end>"))[0].startswith(
        "answers end with <end>, which the chat template"
    )
