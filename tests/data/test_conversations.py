"""Conversations cut at several turns are kept on one side, and held-out prompts are found again."""

from __future__ import annotations

from lifealign.core.config import SourceConfig, TaskConfig
from lifealign.data.check import check_data
from lifealign.data.conversations import CONVERSATION, PROMPT, HeldOut, conversations
from lifealign.data.load import load_task
from lifealign.data.tasks import Message, Row
from support.records import write_jsonl


def row(*turns: str, chosen: str = "c") -> Row:
    roles = ("user", "assistant")
    return Row(tuple(Message(roles[i % 2], text) for i, text in enumerate(turns)), chosen, "r")  # type: ignore[arg-type]


def test_a_prompt_is_held_out_by_itself_its_beginning_and_its_continuation() -> None:
    held = HeldOut([("tone", row("Hello  there", "hi", "go on")), ("bread", row("rye?"))])
    assert held.find(row("hello THERE", "Hi", "go on")) == (PROMPT, "tone")
    assert held.find(row("hello there")) == (CONVERSATION, "tone")
    assert held.find(row("hello there", "hi", "go on", "yes", "and?")) == (CONVERSATION, "tone")
    assert held.find(row("rye?", "yes", "and wheat?")) == (CONVERSATION, "bread")
    assert held.find(row("hello there", "hi", "stop")) is None and held.find(row("wheat?")) is None


def test_rows_are_grouped_by_conversation_in_the_order_of_their_first_row() -> None:
    rows = [
        row("b", "x", "y"),
        row("a"),
        row("z"),
        row("a", "1", "2", "3", "4"),
        row("b"),
        row("a", "1", "2"),
        row("A ", chosen="d"),
    ]
    assert [[rows.index(r) for r in group] for group in conversations(rows)] == [[0, 4], [1, 3, 5, 6], [2]]


def test_splits_keep_conversations_whole_and_leave_single_turns_as_they_were(tmp_path) -> None:
    def turns(i: int, cut: int) -> list[dict[str, str]]:
        every = [
            ("user", f"q{i}"),
            ("assistant", f"a{i}"),
            ("user", f"and {i}"),
            ("assistant", "so"),
            ("user", f"end {i}"),
        ]
        return [{"role": role, "content": text} for role, text in every[: 2 * cut + 1]]

    records = [
        {
            "prompt": turns(i, cut),
            "chosen": [{"role": "assistant", "content": f"yes {i} {cut}"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for i in range(20)
        for cut in range(3)
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", records)
    task = load_task(TaskConfig(name="t", train=SourceConfig(path=str(path)), validation_rows=6, test_rows=12), 0)
    sides = [{r.prompt[0].content for r in part} for part in (task.train, task.validation, task.test)]
    assert (
        [len(side) for side in sides] == [14, 2, 4] and not sides[0] & sides[1] and not (sides[0] | sides[1]) & sides[2]
    )
    test = write_jsonl(tmp_path / "test.jsonl", [records[1], records[5]])
    given = TaskConfig(
        name="t", train=SourceConfig(path=str(path)), test=SourceConfig(path=str(test)), validation_rows=0
    )
    report = load_task(given, 0).reports[0]
    assert report.dropped == {"prompt also in test": (2, 6), "conversation also in test": (1, 3, 4, 5)}


def test_check_data_names_rows_on_both_sides_and_those_that_a_memory_holds_out(tmp_path) -> None:
    rows = [row("q"), row("q", "a", "more"), row("other"), row("rye?", "yes", "and?"), row("new")]
    path = write_jsonl(tmp_path / "rows.jsonl", [{k: v for k, v in r.to_json().items() if k != "source"} for r in rows])
    test = write_jsonl(tmp_path / "test.jsonl", [{"prompt": "q", "chosen": "x", "rejected": "y"}])
    found = check_data(path, test=test, held_out=[("bread", row("rye?")), ("tone", row("Other"))])
    assert found.prompts_on_both_sides == (1,) and found.conversations_on_both_sides == (2,)
    assert found.held_out == {"tone": (3,), "bread": (4,)}
    lines = found.lines()
    assert "conversation also in the test rows: row 2" in lines and "held out by task bread: row 4" in lines
    assert found.to_json()["held_out"] == {"tone": [3], "bread": [4]}
    assert "held out by the memory's tasks: none" in check_data(path, held_out=[]).lines()
    assert check_data(path).to_json()["held_out"] is None
