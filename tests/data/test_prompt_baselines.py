"""The prompt that makes a base model answer like an assistant (URIAL, arXiv 2312.01552), and where its answers end."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifealign.core.errors import ConfigError
from lifealign.data.prompt_baselines import EXAMPLES, INSTRUCTION, PROMPT_BASELINES
from lifealign.data.tasks import Message


def test_urial_is_an_instruction_and_three_examples_and_the_question() -> None:
    """K = 3 constant examples, a list of facts, a refusal with reasons, an answer in steps; the question comes last, unanswered."""
    text = PROMPT_BASELINES["urial"].text([Message("user", "Where is my parcel?")])
    assert len(EXAMPLES) == 3 and text.startswith(INSTRUCTION) and text.count("# Query:\n```") == 4
    assert text.endswith("# Query:\n```\nWhere is my parcel?\n```\n\n# Answer:\n```\n")
    assert all(f"# Answer:\n```\n{answer}\n```" in text for _, answer in EXAMPLES)


def test_a_conversation_is_more_sections_and_a_system_turn_joins_the_instruction() -> None:
    turns = [("system", "Be brief."), ("user", "Hi?"), ("assistant", "Hello."), ("user", "And now?")]
    text = PROMPT_BASELINES["urial"].text([Message(role, words) for role, words in turns])  # type: ignore[arg-type]
    assert text.startswith(f"{INSTRUCTION}\n\nBe brief.\n\n# Query:")
    assert text.endswith("Hi?\n```\n\n# Answer:\n```\nHello.\n```\n\n# Query:\n```\nAnd now?\n```\n\n# Answer:\n```\n")


@pytest.mark.parametrize(
    ("written", "answer", "ended"),
    [
        ("Soon.\n```\n\n# Query:\n```\nMore?", "Soon.", True),
        ("Soon. # Query: more", "Soon.", True),
        ("Soon, I think", "Soon, I think", False),
    ],
)
def test_an_answer_stops_where_the_next_section_begins(written: str, answer: str, ended: bool) -> None:
    assert PROMPT_BASELINES["urial"].cut(written) == (answer, ended)


def test_an_unknown_baseline_is_refused_and_a_strangers_is_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown prompt baseline 'uriel' .did you mean 'urial'"):
        PROMPT_BASELINES.find("uriel")
    file = tmp_path / "mine.py"
    file.write_text("def plain(conversation):\n    return conversation[-1].content\n")
    assert PROMPT_BASELINES[f"{file}:plain"].text([Message("user", "Hi?")]) == "Hi?"
