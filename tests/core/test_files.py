"""Every file comes in through one door: a regular file, not too large, UTF-8, inside of the memory it belongs to."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifealign.core import files
from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.core.files import FileEntry
from lifealign.core.limits import READ


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


def make(folder: Path, kind: str) -> Path:
    path = folder / "file"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "loop":
            path.symlink_to(path)
        case "huge":
            with path.open("wb") as out:
                out.truncate(10**12)  # takes no room: its content is a hole
        case "utf-16":
            path.write_text("a", encoding="utf-16")
        case "gzip":
            path.write_bytes(b"\x1f\x8b\x08")
        case "latin":
            path.write_bytes(b"\xe9t\xe9")
        case _:
            return Path(kind)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pipe", "not a regular file but a pipe (FIFO)"),
        ("socket", "not a regular file but a socket"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("huge", "larger than 512 MiB; set LIFEALIGN_MAX_READ_MB to raise this limit"),
        ("utf-16", "not UTF-8 text (its first bytes are those of UTF-16); save the file as UTF-8"),
        ("gzip", "not UTF-8 text (its first bytes are those of a gzip file); unpack it first"),
        ("latin", "not UTF-8 text (byte 0); save the file as UTF-8"),
        ("/", "not a regular file but a directory"),
        ("/dev/zero", "not a regular file but a device"),
        ("/proc/self/environ", "one that the system makes up"),
        ("none", "no such file"),
        ("a\0b", "not the name of a file"),
    ],
)
def test_what_is_no_text_file_has_one_message(folder: Path, kind: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        files.read_text(make(folder, kind), DataError)
    assert message in str(error.value)


def test_limits_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbf" + b"x" * (1 << 20))
    assert files.read_text(path) == "x" * (1 << 20), "a byte-order mark is no text"
    monkeypatch.setenv(READ.variable, "1")
    with pytest.raises(StoreError, match="larger than 1 MiB"):
        files.read_bytes(path)
    for text in ("0", "-1", "1e3", "9" * 5000):
        monkeypatch.setenv(READ.variable, text)
        with pytest.raises(ConfigError, match=f"{READ.variable}=.*not a whole number of 1 or more"):
            files.read_bytes(path)


def test_no_link_leads_out_of_a_memory(tmp_path: Path) -> None:
    memory, other = tmp_path / "memory", tmp_path / "other"
    for directory in (memory, other):
        directory.mkdir()
        (directory / "file").write_bytes(b"x")
    (memory / "tasks").symlink_to(other)
    (memory / "link").symlink_to(other / "file")
    (memory / "own").symlink_to("file")
    assert files.read_bytes(memory / "own", inside=memory) == b"x"
    for path in (memory / "tasks" / "file", memory / "link", memory / ".." / "other" / "file"):
        with pytest.raises(StoreError, match="a link that leads out of"):
            files.read_bytes(path, inside=memory)


def test_a_listed_file_is_compared_by_size_before_it_is_read(tmp_path: Path) -> None:
    entry, path = FileEntry("0" * 64, 3), tmp_path / "a"
    for size, message in ((10**12, f"damaged: {10**12} bytes, but the manifest lists 3 bytes"), (3, "with sha256")):
        with path.open("wb") as out:
            out.truncate(size)
        for check in (files.read_checked, files.check_file):
            with pytest.raises(StoreError, match=message):
                check(path, entry)
