"""Every layout of the reference page is recognised by its columns and read as the page says, or refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.errors import DataError
from lifealign.data.check import check_data
from lifealign.data.cleaning import clean
from lifealign.data.formats import FORMATS
from lifealign.data.layouts import LAYOUTS, NOUNS, NotRowsError
from lifealign.data.tasks import DataReport, Message
from support.paths import ROOT
from support.records import assistant, read, user, write_jsonl

PAGE = (ROOT / "docs" / "reference" / "layouts.md").read_text(encoding="utf-8")
PROMPT, CHOSEN, REJECTED = "Name a bird.", "A robin.", "No trout."
PAIR = {"prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED}


def table(heading: str) -> list[tuple[str, Any, str]]:
    """The rows of a section's table: first cell, example, last cell."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (.+?) \| `([\[{].+[\]}])` \| (.+) \|$", section, re.M)
    assert len(cells) == section.count("\n|") - 2, heading  # every line but the head and the rule
    return [(first, json.loads(example), last) for first, example, last in cells]


def texts(records: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(row.prompt[-1].content, row.chosen, row.rejected) for row in clean(records, "f").rows]


@pytest.mark.parametrize(("title", "record", "read_as"), table("Pairs"))
def test_the_pairs_of_the_page(title: str, record: dict[str, Any], read_as: str) -> None:
    found = clean([record], "f")
    assert [(row.prompt[-1].content, row.chosen, row.rejected) for row in found.rows] == [(PROMPT, CHOSEN, REJECTED)]
    assert [name.split(" (")[0] for name in found.report.layouts] == [title]
    assert found.report.unread == {}
    system = [m.content for m in found.rows[0].prompt if m.role == "system"]
    assert system == ([record["system"]] if "system" in record else [])
    assert len(found.rows[0].prompt) == 1 + len(system) + 2 * len(record.get("history", ()) if title[0] == "A" else ())


@pytest.mark.parametrize(
    ("title", "record", "kind"),
    [(title, record, "desirable") for title, record, _ in table("One answer with a label")]
    + [(title, record, "demonstration") for title, record, _ in table("Demonstrations")],
)
def test_the_single_answers_of_the_page(title: str, record: dict[str, Any], kind: str) -> None:
    found = clean([record], "f")
    assert [(len(row.prompt), row.answer, row.kind) for row in found.rows] == [(1, CHOSEN, kind)]
    assert found.rows[0].prompt[0].content.replace("\n", " ") == PROMPT
    assert [name.split(" (")[0] for name in found.report.layouts] == [title]
    assert found.report.unread == {} and found.report.kinds == {kind: 1}


@pytest.mark.parametrize(("title", "record", "noun"), table("Not learnt from"))
def test_what_holds_nothing_to_learn_is_refused_by_name(title: str, record: dict[str, Any], noun: str) -> None:
    with pytest.raises(NotRowsError) as error:
        clean([record], "f.jsonl")
    assert (error.value.layout.title, NOUNS[error.value.layout.kind]) == (title, noun)
    assert str(error.value).startswith(f"f.jsonl: {noun}, by its columns ") and "needed pairs" in str(error.value)
    among = clean([PAIR, record], "f")
    assert len(among.rows) == 1
    assert among.report.dropped == {f"{noun} ({title}), not learnt from": (2,)}


@pytest.mark.parametrize(("kind", "content", "read_as"), table("Files"))
def test_the_files_of_the_page(kind: str, content: Any, read_as: str, tmp_path: Path) -> None:
    for indent in (None, 1):
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(content, indent=indent), encoding="utf-8")
        rows, report = read(path)
        assert [(row.prompt[-1].content, row.chosen, row.rejected) for row in rows] == [(PROMPT, CHOSEN, REJECTED)]
        beside = {"version": "not a row"} if "version" in content else {}
        beside |= {"features": "0 entries; rows of it belong in a file of their own"} if "features" in content else {}
        assert report.unread == beside


def test_the_page_has_every_layout() -> None:
    headings = ("Pairs", "One answer with a label", "Demonstrations", "Not learnt from")
    shown = {title for heading in headings for title, _, _ in table(heading)}
    assert {layout.title for layout in LAYOUTS.values()} == shown
    assert set(LAYOUTS) <= set(FORMATS) and not set(LAYOUTS) & set(FORMATS.outside())


def test_a_file_of_one_row_stays_one_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    conversation = [user(PROMPT), assistant(CHOSEN)], [user(PROMPT), assistant(REJECTED)]
    path.write_text(json.dumps({"chosen": conversation[0], "rejected": conversation[1]}), encoding="utf-8")
    assert len(read(path)[0]) == 1
    for content, message in (
        (
            {"prompt": ["a", "b"], "chosen": ["c"], "rejected": ["d"]},
            "columns of different lengths: prompt 2, chosen 1",
        ),
        ({"columns": ["prompt", "chosen"], "data": [["a"]]}, "row 1 of `data` is not a list of 2 values"),
    ):
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read(path)


def as_json(value: Any) -> str:
    return json.dumps(value)


@pytest.mark.parametrize("write", [as_json, str, lambda value: json.dumps(json.dumps(value))])
def test_messages_as_text_are_messages(write: Any) -> None:
    whole = [user(PROMPT), assistant(CHOSEN)], [user(PROMPT), assistant(REJECTED)]
    wanted = [(PROMPT, CHOSEN, REJECTED)]
    assert texts([{"chosen": write(whole[0]), "rejected": write(whole[1])}]) == wanted
    assert (
        texts([{name: write({"messages": w, "tools": []}) for name, w in zip(PAIR_NAMES, whole, strict=True)}])
        == wanted
    )
    assert texts([{name: write({"dialogue": w}) for name, w in zip(PAIR_NAMES, whole, strict=True)}]) == wanted
    assert texts([{**PAIR, "prompt": write([user(PROMPT)])}]) == wanted
    assert texts([{**PAIR, "prompt": write([{"type": "text", "text": PROMPT}])}]) == wanted
    assert (
        texts([{"conversations": write([{"from": "human", "value": PROMPT}]), **{k: PAIR[k] for k in PAIR_NAMES}}])
        == wanted
    )
    tools = {
        name: write({"messages": w, "tools": [{"type": "function"}]}) for name, w in zip(PAIR_NAMES, whole, strict=True)
    }
    assert clean([tools], "f").report.dropped == {"`tools` is not read: tool calls are not supported": (1,)}


PAIR_NAMES = ("chosen", "rejected")


def test_other_text_in_brackets_stays_text() -> None:
    """Answers may be data, and a prompt may ask about them."""
    for chosen, rejected in (('{"name": "A"}', "[1, 2"), ('[{"role": "admin", "content": "x"}]', "{'a': 1}")):
        assert texts([{**PAIR, "chosen": chosen, "rejected": rejected}]) == [(PROMPT, chosen, rejected)]
    broken = "[{'role': 'assistant', 'content': 'A'}\n {'role': 'user', 'content': 'B'}]"  # as numpy prints a list
    reason = "text that begins like messages is neither JSON nor Python text"
    assert clean([{**PAIR, "chosen": broken}], "f").report.dropped == {reason: (1,)}


def test_typed_parts() -> None:
    text = [{"type": "text", "text": "Name "}, {"type": "text", "text": "a bird.", "image": None}]
    assert texts([{**PAIR, "prompt": [{"role": "user", "content": text}]}]) == [(PROMPT, CHOSEN, REJECTED)]
    for part in (
        {"type": "image"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"image": "x.png"},
        {"type": "input_audio"},
    ):
        found = clean([{**PAIR, "prompt": [{"role": "user", "content": [part, *text]}]}], "f")
        ((reason, numbers),) = found.report.dropped.items()
        assert re.fullmatch(
            r"content parts of type (image|image_url|input_audio) are not supported: only text is", reason
        )
        assert numbers == (1,)
    for name in ("images", "video", "audios"):
        found = clean([{**PAIR, name: []}, {**PAIR, "prompt": "Two?", name: ["a"]}], "f")
        assert found.report.dropped == {f"`{name}` is not read: only text is supported": (2,)}
        assert len(found.rows) == 1


def test_tools_and_tool_calls_leave_a_row_out() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]}
    turn = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
    for record in (
        {**PAIR, "chosen": [call], "rejected": [assistant("No.")]},
        {**PAIR, "prompt": [user("Rain?"), call, turn]},
        {**PAIR, "prompt": [{"from": "human", "value": "Rain?"}, {"from": "observation", "value": "x"}]},
        {**PAIR, "chosen": {"role": "assistant", "tool_calls": [{"id": "c1"}]}, "rejected": assistant("No.")},
        {
            **PAIR,
            "chosen": '[{"role": "assistant", "tool_calls": [{"id": "c1"}]}]',
            "rejected": str([assistant("No.")]),
        },
        {
            **PAIR,
            "chosen": [{"role": "assistant", "content": [{"type": "tool_use", "id": "c1"}]}],
            "rejected": [assistant("No.")],
        },
    ):
        assert clean([record], "f").report.dropped == {"tool calls are not supported": (1,)}
    for tools in ([{"type": "function"}], '[{"type": "function"}]'):
        found = clean([{**PAIR, "tools": tools}], "f")
        assert found.report.dropped == {"`tools` is not read: tool calls are not supported": (1,)}
    for tools in (None, [], "[]", "null", ""):
        assert len(clean([{**PAIR, "tools": tools}], "f").rows) == 1


def test_a_system_column_is_a_system_turn() -> None:
    records = [{**PAIR, "system": "Be brief."}, {**PAIR, "system_prompt": "Be long."}, {**PAIR, "system": " "}]
    found = clean(records, "f")
    assert [row.prompt[0] for row in found.rows] == [
        Message("system", "Be brief."),
        Message("system", "Be long."),
        Message("user", PROMPT),
    ]
    turns = [{"role": "system", "content": "Be brief."}, user(PROMPT)]
    same, other = ({**PAIR, "prompt": turns, "system": text} for text in ("Be brief.", "Be long."))
    assert [m.role for m in clean([same], "f").rows[0].prompt] == ["system", "user"]
    assert clean([other], "f").report.dropped == {"the system column and the system turn differ": (1,)}


def test_a_prompt_beside_conversations_must_be_in_them() -> None:
    whole = {"chosen": [user(PROMPT), assistant(CHOSEN)], "rejected": [user(PROMPT), assistant(REJECTED)]}
    assert texts([{"prompt": "name", **whole}]) == []
    assert texts([{"prompt": PROMPT, **whole}]) == [(PROMPT, CHOSEN, REJECTED)]
    reason = "the prompt is not in the conversations of chosen and rejected"
    assert clean([{"prompt": "Where is it?", **whole}], "f").report.dropped == {reason: (1,)}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": PROMPT, "responses": ["a", "b"], "scores": [2, 2]}, "all answers have the same score"),
        (
            {"prompt": PROMPT, "responses": ["a", "b"], "scores": [2, None]},
            "fewer than two answers have a score or rank",
        ),
        ({"prompt": PROMPT, "responses": ["a", "b"]}, "a list of answers has neither scores nor ranks"),
        ({"prompt": PROMPT, "response_a": "a", "response_b": "b", "winner": "tie (bothbad)"}, "the verdict is a tie"),
        ({"prompt": PROMPT, "response_a": "a", "response_b": "b", "winner": "c"}, "`winner` names neither answer"),
        ({"prompt": PROMPT, "response_1": "a", "response_2": "b", "preference_strength": 0}, "the verdict is a tie"),
        (
            {"prompt": PROMPT, "response_a": "a", "response_b": "b", "label": 1},
            "`label` is a number, which names neither answer",
        ),
        (
            {"fields": {"prompt": PROMPT, "response1": "a", "response2": "b"}, "responses": {"better": []}},
            "nobody preferred one of the answers",
        ),
        (
            {
                "fields": {"prompt": PROMPT, "response1": "a", "response2": "b"},
                "responses": {"better": [{"value": "response1"}, {"value": "response2"}]},
            },
            "as many votes for one answer as for the other",
        ),
        (
            {
                "prompt": '["a", "b"]',
                "response_a": '["c", "d"]',
                "response_b": '["e", "f"]',
                "winner_model_a": 1,
                "winner_model_b": 0,
            },
            "the two conversations have several turns, and their answers differ before the last one",
        ),
        ({**PAIR, "history": "long ago"}, "`history` is not a list of [question, answer] or of messages"),
    ],
)
def test_what_cannot_be_told_leaves_the_row_out(record: dict[str, Any], reason: str) -> None:
    assert clean([record], "f").report.dropped == {reason: (1,)}


def test_a_ranking_and_drafts_of_argilla() -> None:
    fields = {"prompt": PROMPT, "response-1": REJECTED, "response-2": CHOSEN, "topic": "birds"}
    ranking = [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}]
    responses = [
        {"status": "submitted", "values": {"order": {"value": ranking}, "quality": {"value": 1}}},
        {"status": "draft", "values": {"order": {"value": "response-1"}}},
    ]
    found = clean([{"fields": fields, "responses": responses}], "f")
    assert [(row.chosen, row.rejected) for row in found.rows] == [(CHOSEN, REJECTED)]
    assert found.report.unread == {"fields.topic": "a subject; rows may be of several tasks"}


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    records = [
        {**PAIR, "topic": "birds", "weight": 0.5, "empty": None, "shoe": 41},
        {
            **PAIR,
            "prompt": [user("Two?")],
            "chosen": [{**assistant("Yes."), "reasoning_content": "Hm."}],
            "rejected": [assistant("No.")],
        },
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", records)
    _, report = read(path)
    assert report.lines()[-1] == (
        "columns not read: topic (a subject; rows may be of several tasks), weight (how much a row counts; all rows count "
        "the same), shoe (numbers), chosen[].reasoning_content (words about an answer)"
    )
    assert "\n".join(check_data(path).lines()).count("columns not read") == 1
    assert list(report.to_json()["unread"]) == ["topic", "weight", "shoe", "chosen[].reasoning_content"]
    assert DataReport.from_json(json.loads(json.dumps(report.to_json()))).unread == report.unread


def test_reports_of_plain_rows_are_stored_as_before() -> None:
    assert set(clean([PAIR], "f").report.to_json()) == {"source", "read", "kept", "dropped", "repaired"}
    assert clean([PAIR], "f").report.lines()[-1] == "layout: TRL preference (prompt, chosen, rejected), 1 row"
    alpaca = clean([{"instruction": PROMPT, "chosen": CHOSEN, "rejected": REJECTED}], "f").report
    assert alpaca.to_json()["layouts"] == {"Alpaca preference (instruction, chosen, rejected)": 1}


def test_scores_come_with_their_rows() -> None:
    records = [
        {**PAIR, "score_chosen": "8.5", "score_rejected": 9},
        {**PAIR, "score_chosen": 1, "score_rejected": 2},  # a duplicate
        {**PAIR, "prompt": "Two?"},
        {"prompt": "Three?", "responses": [REJECTED, CHOSEN], "ranks": [2, 1]},
    ]
    assert clean(records, "f").scores == ((8.5, 9.0), None, (-1.0, -2.0))


def test_check_data_shows_the_first_prompts_of_the_answers(tmp_path: Path) -> None:
    records = [{"chosen": f"What is {i} plus one? Good", "rejected": f"What is {i} plus one? Bad"} for i in range(5)]
    found = check_data(write_jsonl(tmp_path / "rows.jsonl", records))
    assert found.implicit_prompts == tuple(f"What is {i} plus one?" for i in range(3))
    assert "prompt taken from the answers: 'What is 0 plus one?'" in found.lines()
