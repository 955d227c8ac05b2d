"""The page of error messages quotes messages that the code has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from support.paths import ROOT

PAGE = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
VALUE = "\0"


def quoted(page: str) -> list[str]:
    """The fragment in the first column of each row of the page's tables."""
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


def texts(source: str) -> Iterator[str]:
    """Each string of a module as one text, docstrings excepted; a value in an f-string is `VALUE`."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
            pending.extend(part for part in node.values if isinstance(part, ast.FormattedValue))
        else:
            pending.extend(ast.iter_child_nodes(node))


@pytest.fixture(scope="module")
def messages() -> list[str]:
    modules = sorted((ROOT / "src" / "lifealign").rglob("*.py"))
    return [text for path in modules for text in texts(path.read_text(encoding="utf-8"))]


def found(fragment: str, messages: list[str]) -> bool:
    """Whether a message has the fragment, in which `...` stands for one value."""
    wanted = fragment.replace("...", VALUE)
    return any(wanted in message for message in messages)


def test_page_has_enough_messages_and_quotes_each_once() -> None:
    fragments = quoted(PAGE)
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith(("| message |", "|---"))]
    assert len(rows) == len(fragments) == len(set(fragments)) >= 25
    assert all(len(fragment) >= 12 and line.count(" | ") == 2 for fragment, line in zip(fragments, rows, strict=True))


@pytest.mark.parametrize("fragment", quoted(PAGE))
def test_quoted_message_is_in_the_code(fragment: str, messages: list[str]) -> None:
    assert found(fragment, messages), f"no message has {fragment!r}; quote it as the code writes it"


@pytest.mark.parametrize(
    "invented",
    [
        "the memory has caught a cold",
        "cannot be loaded: ... because",  # no value where the message has none
        "is fixed for a memory's lifetime",
        "Mistakes that a user can make",  # a docstring is no message
    ],
)
def test_invented_message_is_not_found(invented: str, messages: list[str]) -> None:
    assert not found(invented, messages)


def test_message_of_several_literals_is_one_text() -> None:
    source = """
def f(x):
    'Not a message.'
    raise ValueError(
        f"a {x!r} is "
        "odd; "
        f"allowed: {'-'.join(x)}"
    )
"""
    assert set(texts(source)) == {f"a {VALUE} is odd; allowed: {VALUE}", "-"}
