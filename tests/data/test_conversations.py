"""Conversations cut at several turns are kept on one side, and held-out prompts are found again."""

from __future__ import annotations

from lifealign.core.config import SourceConfig, TaskConfig
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
