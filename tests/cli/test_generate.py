"""`lifealign generate`: prompts in, answers out."""

from __future__ import annotations

import json

import pytest

from lifealign.data.tasks import Message
from support.cli import lifealign


def test_generate_passes_its_options_on(memory, fake):
    result = lifealign(
        "generate", memory, "--prompt", "a", "--prompt", "b", "--as-of", "t", "--max-new-tokens", 9, "--json"
    )
    assert json.loads(result.stdout) == [{"prompt": "a", "answer": "<a>"}, {"prompt": "b", "answer": "<b>"}]
    options = {"as_of": "t", "max_new_tokens": 9, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 16}
    plain = {"weights": None, "route": None}
    assert fake.calls == [("generate", [(Message("user", "a"),), (Message("user", "b"),)], options | plain)]
    assert lifealign("generate", memory, "--prompt", "a", "--prompt", "b").stdout == "<a>\n\n<b>\n"


def test_an_answer_that_was_cut_is_told_and_marked(memory, fake):
    call = ("generate", memory, "--prompt", "long", "--prompt", "b", "--max-new-tokens", 9)
    result = lifealign(*call)
    assert (result.exit_code, result.stdout) == (0, "<long>\n\n<b>\n")
    assert result.stderr == "lifealign: 1 of 2 answers cut at 9 tokens; raise --max-new-tokens\n"
    assert json.loads(lifealign(*call, "--json").stdout) == [
        {"prompt": "long", "answer": "<long>", "finish": "length"},
        {"prompt": "b", "answer": "<b>"},
    ]


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
        ("", "contains no rows; expected one prompt per row"),
        (
            '{"prompt": "a"}\n{"chosen": "b"}',
            "row 2: expected exactly one of `prompt` and `messages`, got columns ['chosen']",
        ),
        ('{"prompt": "a", "messages": []}', "row 1: expected exactly one of `prompt` and `messages`"),
        ('{"prompt": 3}', "row 1: prompt: prompt is neither a string nor a list of messages"),
        ('{"prompt": " "}', "row 1: prompt must end with a non-empty user turn"),
        ('{"messages": []}', "row 1: messages must end with a non-empty user turn"),
        (
            '{"messages": [{"role": "assistant", "content": "x"}]}',
            "row 1: messages must end with a non-empty user turn",
        ),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "row 1: messages: a message has a role other than"),
        ('{"prompt": "\\ud800"}', "row 1: text is not valid Unicode (a lone surrogate)"),
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
    assert lifealign("generate", memory, "--prompt", "a", "--route").exit_code == 0
    given = [{k: call[2][k] for k in ("weights", "route")} for call in fake.calls]
    assert given == [
        {"weights": {"t": 0.0, "u": 1.5}, "route": None},
        {"weights": None, "route": True},
    ]


def test_a_decoder_is_made_before_the_memory_is_asked(memory, fake):
    lifealign("generate", memory, "--prompt", "a", "--hold", "json", "--hold", "task:t", "--hold-weight", 1, "--hold-weight", 2)  # fmt: skip
    lifealign("generate", memory, "--prompt", "a", "--best-of", 3, "--temperature", 0.5, "--option", "keep=true")
    (_, _, held), (_, _, best) = fake.calls
    assert (held["decoder"].config.rules, held["decoder"].config.weights) == (("json", "task:t"), (1.0, 2.0))
    assert "temperature" not in held and best["temperature"] == 0.5
    assert (best["decoder"].config.n, best["decoder"].config.reward, best["decoder"].config.keep) == (
        3,
        "implicit",
        True,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--best-of", 2, "--hold", "json"), "--best-of and --hold each choose a decoder; give only one of them"),
        (("--reward", "json"), "--reward has no effect without --best-of; add --best-of or leave --reward out"),
        (("--hold-weight", 1), "--hold-weight has no effect without --hold; add --hold or leave --hold-weight out"),
        (("--option", "beams=1"), "--option has no effect without a decoder; add --best-of, --hold or --decoder"),
        (("--hold", "json", "--option", "beams"), "--option 'beams': expected KEY=VALUE, e.g. beams=3"),
        (("--hold", "json", "--option", "beams=0"), "decoder hold: beams: must be at least 1"),
        (("--hold", "json", "--option", "beams=1", "--option", "beams=2"), "beams is given twice; leave one out"),
        (("--decoder", "best"), "unknown decoder 'best' (did you mean 'best-of'?); allowed: best-of, hold"),
    ],
)
def test_a_decoder_that_cannot_be_is_one_message(memory, fake, options, message):
    result = lifealign("generate", memory, "--prompt", "a", *options)
    assert result.exit_code == 2 and message in result.stderr and not fake.calls
