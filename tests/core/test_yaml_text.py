"""YAML is bounded: whatever is in a file or after --set ends at once, in values or in one message with the line."""

from __future__ import annotations

import time

import pytest

from lifealign.core.limits import YAML
from lifealign.core.yaml_text import YamlError, parse_yaml

TEN = "x, x, x, x, x, x, x, x, x, x"
LAUGHS = f"a0: &a0 [{TEN}]\n" + "".join(f"a{i}: &a{i} [{TEN.replace('x', f'*a{i - 1}')}]\n" for i in range(1, 10))
MERGES = "m0: &m0 {k: 1}\n" + "".join(f"m{i}: &m{i}\n  <<: [{TEN.replace('x', f'*m{i - 1}')}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (LAUGHS, 5, "more than 20000 keys and values (an alias counts as what it names)"),
        (MERGES, 9, f"set {YAML.variable} to raise this limit"),
        ("".join(f"k{i}: 1\n" for i in range(100_000)), 10_000, "more than 20000 keys and values"),
        ("a: " + "x" * 6_000_000, None, "longer than 5120000 characters"),
        ("[" * 200_000, 1, "nested more than 100 deep"),
        ("? " * 5000 + "a", 1, "nested more than 100 deep"),
        ("%TAG !a! tag:x,\n" * 50_000 + "---\na: 1", None, "more than 20 directives"),
        ("a: &a\n  b: *a\n", 2, "Circular reference: the alias *a is inside the value that it names"),
        ("stream:\n  planted: {}\nstream: {}", 3, "the key 'stream' is there twice, first in line 1"),
        ("a: {b: 1, b: 2}", 1, "the key 'b' is there twice"),
        ("a: 1\nb: " + "1" * 5000, 2, "a number of 5000 characters; allowed: up to 100"),
        ("a: 1" + ":1" * 50_000, 1, "a number of 100001 characters"),
        ("a: !!python/object/apply:os.system [ls]", 1, "the tag '!!python/object/apply:os.system' is not allowed"),
        ("a: !!binary aGk=", 1, "the tag '!!binary' is not allowed"),
        ("a: !!bool x", None, "a value does not fit its tag"),
        ("a: !!int ''", None, "a value does not fit its tag"),
        ("yes: 1", 1, "a key must be text or a whole number, got 'yes'"),
        ("? [a]\n: b", 1, "a key must be text or a whole number, got a list or a mapping"),
        ('a: "\\ud800"', 1, "invalid Unicode character"),
        ("a: \udcff", None, "not valid Unicode"),
        ("a: \0", None, "control characters are not allowed"),
        ("a:\n\tb: 1", 2, "found character that cannot start any token"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: *x", 1, "undefined alias"),
    ],
)
def test_hostile_yaml_ends_at_once_with_its_line(text: str, line: int | None, message: str) -> None:
    started = time.process_time()
    with pytest.raises(YamlError) as error:
        parse_yaml(text)
    assert message in str(error.value) and error.value.line == line and len(str(error.value)) < 400
    assert time.process_time() - started < 1


def test_what_people_write_is_read() -> None:
    text = 'a: &a {b: 5e-4, 1: x}\nc: {<<: *a, b: "5e10"}\nd: [2024-01-01, =, 1.5e3, yes, null, 010]\r\n'
    assert parse_yaml(text) == {
        "a": {"b": 5e-4, 1: "x"},
        "c": {"b": "5e10", 1: "x"},
        "d": ["2024-01-01", "=", 1500.0, True, None, 8],
    }
    assert parse_yaml("") is None and parse_yaml("# only a remark") is None
