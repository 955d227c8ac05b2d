"""Parse YAML of others into plain values, in time that its length bounds. Imports no torch.

A page of YAML may stand for a billion values, because an alias repeats what it names and a merge copies it. So the text
is gone through once, event by event, and counted as if every alias were written out, before any value is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from lifealign.core.json_text import DEEPEST, NOT_UNICODE
from lifealign.core.limits import YAML, shown

LENGTH = 256
"""Characters of a text for each value that it may hold: so a limit on values is one on the length too."""
DIRECTIVES = 20
"""Most lines that begin with %; the parser compares each with all before it."""
NUMBER = 100
"""Longest number, in characters."""

_TAG = "tag:yaml.org,2002:"
_PLAIN = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))
_KEYS = frozenset(_TAG + name for name in ("str", "int", "merge"))
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, six times as fast; wheels of PyYAML have it


class YamlError(ValueError):
    """YAML that cannot be read.

    Attributes:
        line: its line, from 1; None: unknown.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class _Loader(_Base):  # type: ignore[misc]
    """Reads 5e-4 (no dot) as a number, not as the string of YAML 1.1, and a date as text. Quoted values stay strings."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in known if tag.removeprefix(_TAG) not in ("timestamp", "value")]
    for first, known in _Base.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _TAG + "float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """The plain value of a YAML text: null, truth values, numbers, texts, lists, and mappings with texts or whole numbers as keys.

    Raises:
        YamlError: not valid YAML; a key twice; a kind of value that is not plain, e.g. ``!!python/name``; or more than the
            limits allow.
    """
    longest = LENGTH * YAML.value()
    if len(text) > longest:
        raise YamlError(f"longer than {longest} characters; set {YAML.variable} to raise this limit")
    if text.startswith("%") + text.count("\n%") > DIRECTIVES:
        raise YamlError(f"more than {DIRECTIVES} directives (lines that begin with %)")
    try:
        _count(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise YamlError(str(problem)[:300], None if mark is None else mark.line + 1) from None
    except UnicodeEncodeError:
        raise YamlError(NOT_UNICODE) from None
    except YamlError:
        raise
    # PyYAML's own constructors raise these for a tag that does not fit its value, e.g. !!bool x and !!int "".
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise YamlError(f"a value does not fit its tag ({type(error).__name__}: {shown(str(error))})") from None


def _count(text: str) -> None:
    """Refuse a text with too many values, with every alias as what it stands for, or nested too deeply."""
    limit = YAML.value()
    named: dict[str, int | None] = {}  # anchor -> values of what it names; None: not complete
    counts: list[int] = [0]
    anchors: list[str | None] = [None]
    for event in yaml.parse(text, Loader=_Loader):
        line = None if event.start_mark is None else event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            known = named.get(name, 1)  # the parser refuses an alias of nothing
            if known is None:
                raise YamlError(f"Circular reference: the alias *{name[:40]} is inside the value that it names", line)
            counts[-1] += known
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
            if event.anchor:
                named[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(counts) > DEEPEST:
                raise YamlError(f"nested more than {DEEPEST} deep", line)
            counts.append(1)
            anchors.append(event.anchor)
            if event.anchor:
                named[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            size = counts.pop()
            counts[-1] += size
            if anchor := anchors.pop():
                named[anchor] = size
        if counts[-1] > limit:
            raise YamlError(
                f"more than {limit} keys and values (an alias counts as what it names); set {YAML.variable} to raise this limit",
                line,
            )


def _check(root: yaml.Node) -> None:
    """Refuse what is not plain, twins among keys, and numbers that are too long, by line."""
    for node in _nodes(root):
        line = node.start_mark.line + 1
        if node.tag not in _PLAIN:
            raise YamlError(f"the tag {shown(node.tag.replace(_TAG, '!!'))} is not allowed; write a plain value", line)
        if isinstance(node, yaml.ScalarNode):
            if node.tag in (_TAG + "int", _TAG + "float") and len(node.value) > NUMBER:
                raise YamlError(f"a number of {len(node.value)} characters; allowed: up to {NUMBER}", line)
            if not node.value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in node.value):
                raise YamlError(NOT_UNICODE, line)
        elif isinstance(node, yaml.MappingNode):
            _check_keys(node)


def _check_keys(node: yaml.MappingNode) -> None:
    seen: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in _KEYS:
            got = shown(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            raise YamlError(
                f"a key must be text or a whole number, got {got}; put it into quotes if text is meant", line
            )
        same = key.tag, key.value
        if same in seen:
            raise YamlError(f"the key {shown(key.value)} is there twice, first in line {seen[same]}; remove one", line)
        seen[same] = line


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """Every node once."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, yaml.ScalarNode):
            continue
        parts = (part for pair in node.value for part in pair) if isinstance(node, yaml.MappingNode) else node.value
        for part in parts:
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
