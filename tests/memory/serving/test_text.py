"""What a reader of a growing answer sees: whole characters, no white space around it, nothing of a stop."""

from __future__ import annotations

import pytest

from lifealign.memory.serving.text import Text


def decode(ids: object) -> str:
    return bytes(ids).decode(errors="replace")  # type: ignore[call-overload,no-any-return]


def pieces(data: bytes, *stops: str, strip: bool = True) -> tuple[list[str], Text]:
    """What comes out byte by byte."""
    text = Text(decode, stops, strip)
    found = []
    for end in range(1, len(data) + 1):
        found.append(text.grow(list(data[:end]), last=end == len(data)))
        if text.stopped:
            break
    return found, text


@pytest.mark.parametrize("data", ["plain words", "  spaces \n around\n ", "é 漢字 🙂 ok", "🙂", " \n "])
def test_pieces_add_up_to_what_generate_gives(data: str) -> None:
    found, text = pieces(data.encode())
    assert "".join(found) == text.given == data.strip()


def test_white_space_of_a_raw_completion_stays() -> None:
    assert "".join(pieces(b" two ", strip=False)[0]) == " two "


def test_characters_come_whole() -> None:
    assert pieces("a🙂b".encode())[0] == ["a", "", "", "", "🙂", "b"]


def test_bytes_that_never_become_a_character_come_at_the_end() -> None:
    assert pieces(b"a\xf0\x9f")[0] == ["a", "", "\ufffd"]


@pytest.mark.parametrize(
    ("data", "stops", "given", "stopped"),
    [
        (b"one. two", (".",), "one", True),
        (b"one STOP two", ("STOP",), "one", True),
        (b"one STO two", ("STOP",), "one STO two", False),
        (b"ababac", ("abac",), "ab", True),
        (b"x END y. z", (".", "END"), "x", True),
        (b"STOP", ("STOP",), "", True),
        (b"one ST", ("STOP",), "one ST", False),
    ],
)
def test_a_stop_and_what_follows_is_never_seen(data: bytes, stops: tuple[str, ...], given: str, stopped: bool) -> None:
    found, text = pieces(data, *stops)
    assert ("".join(found), text.stopped) == (given, stopped)


def test_a_tokenizer_that_reads_the_end_anew_gives_nothing_twice() -> None:
    texts = iter(["ab", "aX", "abc"])
    text = Text(lambda ids: next(texts))
    assert [text.grow([], last=False) for _ in range(3)] == ["ab", "", "c"]
