"""Values of rules from 0 to 1: parameters, checkers by name, functions from outside, and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifealign.core.errors import ConfigError
from lifealign.data.rule_values import find_value


@pytest.mark.parametrize(
    ("rule", "answer", "value"),
    [
        ("min_words=4", "one two", 0.5),
        ("min_words=1", "", 0.0),
        ("max_words=2", "one two three four", 0.5),
        ("max_words=2", "", 1.0),
        ("keywords=refund, receipt", "Your REFUND is here", 0.5),
        ("keywords=art", "start", 0.0),
        ("avoid=sorry,no", "So sorry.", 0.5),
        (r"regex=^\d+: ", "12: yes", 1.0),
        ("regex=a=b", "a=c", 0.0),
        ("json", '{"a": 1}', 1.0),
        ("json", "{", 0.0),
        ("short-facts", "Water boils at 100 degrees.", 1.0),
        ("task:old", "no", 0.0),
    ],
)
def test_values(rule: str, answer: str, value: float) -> None:
    assert find_value(rule, lambda task: lambda text: text == task)(answer) == value


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("min_words=0", "expected a whole number of 1 or more"),
        ("max_words", "needs a value, e.g. max_words=40"),
        ("keywords= ,", "expected words with commas between them"),
        ("regex=(", "not a regular expression"),
        ("task:old", "needs a memory"),
        ("polite", "unknown rule 'polite'; allowed: min_words=20"),
    ],
)
def test_mistakes(rule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_value(rule)


def test_a_function_from_outside_is_held_to_its_range(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def length(answer):\n    return len(answer)\n\n\ndef fails(answer):\n    raise KeyError(answer)\n")
    assert find_value(f"{file}:length", any_number=True)("abc") == 3.0
    assert find_value(f"{file}:length")("a") == 1.0
    with pytest.raises(ConfigError, match=r"expected True, False or a number from 0 to 1, got 3.0"):
        find_value(f"{file}:length")("abc")
    with pytest.raises(ConfigError, match=r"fails.* failed: KeyError"):
        find_value(f"{file}:fails")("abc")
