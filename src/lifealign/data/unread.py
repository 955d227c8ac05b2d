"""Columns that were not read, each with what it may mean, so that nothing of a file is left out silently."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lifealign.data.turns import is_empty, is_none_given, number_of

ANOTHER_ANSWER = "another answer"
MEANINGS: tuple[tuple[str, str], ...] = (
    (r"margin|(score|rating|reward|preference)_(gap|difference|diff)", "how much better the chosen answer is"),
    (r"(.*_)?(scores?|ratings?|rewards?|ranks?|grades?)(_.*)?", "how good an answer is"),
    (r"(.*_)?weights?", "how much a row counts; all rows count the same"),
    (r"labels?|kto_tag|winner(_.*)?|preference|verdict|thumbs?(_up)?", "a verdict on the answers"),
    (r"(.*_)?(id|uuid|hash|sha256|index|idx)|id_.*|__index_level_\d+__", "an identifier"),
    (r"source|origin|dataset|from|url|file", "where the row is from"),
    (r"(.*_)?(models?|generator|agent)(_.*)?", "which model answered"),
    (
        r"topics?|categor(y|ies)|subjects?|tasks?|domain|type|subset|tags?|policy",
        "a subject; rows may be of several tasks",
    ),
    (r"split", "the split; give held-out rows in a file of their own"),
    (r"lang(uage)?|locale", "the language"),
    (r"(.*_)?(time|timestamp|date|at)|created|updated", "a time"),
    (r"annotators?|users?|author|worker(_.*)?", "a person"),
    (r"metadata|meta|info|extra(_info)?|other_info", "details of the row"),
    (r"status|turns?|(num|n|len|length)_.*|.*_(length|len|tokens|turns)|seconds", "a state or a count"),
    (
        r"(.*_)?(reasoning(_content)?|thinking|thoughts?|rationale|critique|comments?|explanation)",
        "words about an answer",
    ),
    (
        r"(overall_)?(quality|helpfulness|correctness|coherence|harmlessness|honesty|truthfulness|toxicity|safety|usefulness|"
        r"relevance|accuracy|satisfaction|csat)",
        "how good an answer is",
    ),
    (r"input|context|passage|document|background|text|body|title|history|reference", "it may belong to the prompt"),
    (r"prompt|query|question|instruction|messages|conversations?", "another form of the prompt, or a part of it"),
    (r"(.*_)?(completions?|responses?|answers?|outputs?|generations?)(_.*)?", ANOTHER_ANSWER),
    (
        r"(.*_)?(corrections?|corrected|edits?|edited|rewritten|revised|revision|improved|ideal|gold|ground_truth|target|expected)",
        ANOTHER_ANSWER,
    ),
    (r"(.*_)?suggestion(_.*)?|suggestions|vectors|annotations|drafts|predictions", "what an annotation tool keeps"),
)
"""Pattern of a column's name -> what such a column may hold."""
METADATA = (
    "an identifier",
    "where the row is from",
    "which model answered",
    "a subject; rows may be of several tasks",
    "the split; give held-out rows in a file of their own",
    "the language",
    "a time",
    "a person",
    "details of the row",
)

MEDIA = ("images", "image", "videos", "video", "audios", "audio")
TOOLS = ("tools", "functions", "tool_calls", "function_call", "function_calls")


def meaning_of(column: str) -> str | None:
    """What a column of this name may hold; None: the name is not known."""
    name = column.rpartition(".")[2].casefold().replace("-", "_").replace(" ", "_")
    return next((meaning for pattern, meaning in MEANINGS if re.fullmatch(pattern, name)), None)


def is_metadata(column: str) -> bool:
    """Whether a column of this name is about the row, so that it holds neither a prompt nor an answer."""
    return meaning_of(column) in METADATA


def describe(column: str, values: Sequence[Any]) -> str:
    """What a column may mean: by its name, else by its values, which are not empty."""
    found = meaning_of(column)
    if found is None:
        kinds = {_kind(value) for value in values}
        found = kinds.pop() if len(kinds) == 1 else "values of several kinds"
    return found


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if number_of(value) is not None:
        return "numbers"
    return "text" if isinstance(value, str) else "lists" if isinstance(value, list | tuple) else "objects"


def may_be_prompt(column: str, value: Any) -> bool:
    """Whether a cell may hold a prompt: a text, but not a number, nor a word in a column such as `source`."""
    if not isinstance(value, str) or is_empty(value) or number_of(value) is not None:
        return False
    return len(value.split()) > 1 or not is_metadata(column)


def unsupported(record: Mapping[str, Any]) -> str | None:
    """Why a row cannot be learnt from its text alone: it has images, sound or tools; None: it can."""
    for name in MEDIA:
        if not is_empty(record.get(name)):
            return f"`{name}` is not read: only text is supported"
    for name in TOOLS:
        if not is_none_given(record.get(name)):
            return f"`{name}` is not read: tool calls are not supported"
    return None
