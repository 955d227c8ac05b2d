"""Inputs for the doors: well-formed ones of every kind, with values that nobody expects, and the same with bytes changed."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import yaml
from hypothesis import strategies as st

COLUMNS = [
    "prompt",
    "chosen",
    "rejected",
    "messages",
    "completion",
    "label",
    "score",
    "question",
    "answer",
    "answers",
    "instruction",
    "input",
    "output",
    "system",
    "conversations",
    "tools",
    "images",
    "rating",
    "ratings",
    "response",
    "responses",
    "response_a",
    "response_b",
    "winner",
    "data",
    "rows",
    "columns",
    "train",
    "user",
    "feedback",
    "kto_tag",
    "preference",
    "id",
    "request",
    "vote",
    "metadata",
    "task",
    "source",
    "point",
    "stage",
    "scores",
    "gold",
    "reference",
    "item",
]
TEXTS = (
    "", " ", "a", "\n", "\0", "\ufeff", "\u2028", "\U0001f600", "Human: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: ",
    "[{'role': 'user', 'content': 'a'}]", '[{"role": "user", "content": "\\ud800"}]', '"[{\\"role\\": \\"user\\", ',
    "{'role': 'user', 'content': " + "-" * 400, "[" * 300, '{"content": "a", "role": ' * 50, "1e400", "nan", "-0", "9" * 500,
    "chosen", "a wins", "true", "null", "x" * 3000, "<think>a</think>b", "../../etc/passwd", "${HOME}", "~", "=1+1", "\ud800",
)  # fmt: skip
ROLES = ("user", "assistant", "system", "tool", "human", "gpt", "", "\0", "narrator")

texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=12))
numbers = st.one_of(
    st.integers(-3, 12), st.sampled_from((10**30, -(10**399), 0.5, 1e308, float("inf"), float("-inf"), float("nan")))
)
scalars = st.one_of(texts, numbers, st.none(), st.booleans())
messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.one_of(st.sampled_from(ROLES), scalars),
            "content": st.one_of(texts, scalars, st.lists(st.dictionaries(st.sampled_from(("type", "text", "image")), scalars, max_size=2), max_size=2)),
            "from": st.sampled_from(ROLES),
            "value": scalars,
            "tool_calls": scalars,
        },
    ),
    max_size=4,
)  # fmt: skip
values = st.recursive(
    st.one_of(scalars, messages),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(COLUMNS), st.sampled_from(("0", "1", "role", "content", "text")), texts), inner, max_size=3),
    ),
    max_leaves=5,
)  # fmt: skip
records = st.dictionaries(st.one_of(st.sampled_from(COLUMNS), texts), st.one_of(texts, values), min_size=1, max_size=5)
labelled = st.fixed_dictionaries(
    {"messages": st.one_of(messages, texts), "label": scalars}, optional={"completion": texts, "tools": values}
)
pairs = st.fixed_dictionaries({"prompt": st.one_of(texts, values), "chosen": texts, "rejected": texts})
rows = st.one_of(
    *(st.lists(kind, max_size=4) for kind in (pairs, labelled, records, st.one_of(records, pairs, labelled)))
)


@st.composite
def changed(draw: Any, source: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of `source`; of every second one, a few are changed, cut, repeated or put in."""
    data = draw(source)
    if not data or draw(st.booleans()):
        return data
    for _ in range(draw(st.integers(1, 3))):
        at, step = draw(st.integers(0, len(data))), draw(st.integers(1, 40))
        put = draw(
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from((b"\xff\xfe", b"\xed\xa0\x80", b"\r", b"\0", b"[" * 200, b"9" * 500)),
            )
        )
        way = draw(st.sampled_from(("cut", "put", "over", "again", "out")))
        match way:
            case "cut":
                data = data[:at]
            case "put":
                data = data[:at] + put + data[at:]
            case "over":
                data = data[:at] + put + data[at + len(put) :]
            case "again":
                data = data[:at] + data[at : at + step] * draw(st.sampled_from((2, 3, 500))) + data[at + step :]
            case "out":
                data = data[:at] + data[at + step :]
    return data


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _csv(table: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in table for name in row))
    writer = csv.writer(out)
    writer.writerow(names)
    writer.writerows([[row.get(name, "") for name in names] for row in table])
    return _encoded(out.getvalue())


def _parquet(table: list[dict[str, Any]], text: bool, compression: str, dictionary: bool) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = [{key.encode("utf-8", "replace").decode(): value for key, value in row.items()} for row in table]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        cells = [row.get(name) for row in rows]
        try:
            columns[name] = pyarrow.array(
                [None if text and c is None else str(c).encode("utf-8", "replace").decode() for c in cells]
                if text
                else cells
            )
        except (pyarrow.ArrowException, UnicodeError, OverflowError, TypeError):
            columns[name] = pyarrow.array([repr(c).encode("utf-8", "replace") for c in cells])  # binary
    sink = pyarrow.BufferOutputStream()
    try:
        pyarrow.parquet.write_table(pyarrow.table(columns), sink, compression=compression, use_dictionary=dictionary)
    except pyarrow.ArrowException:  # a struct without fields cannot be written
        return b"PAR1"
    return bytes(sink.getvalue().to_pybytes())


json_file = changed(
    st.one_of(rows, values, records).map(
        lambda value: _encoded(json.dumps(value, ensure_ascii=len(str(value)) % 2 == 0))
    )
)
jsonl_file = changed(
    st.one_of(rows, st.lists(values, max_size=3)).map(lambda many: _encoded("\n".join(json.dumps(one) for one in many)))
)
csv_file = changed(rows.map(_csv))
parquet_file = changed(
    st.builds(_parquet, rows, st.booleans(), st.sampled_from(("none", "snappy", "gzip", "zstd")), st.booleans())
)

KEYS = [
    "memory",
    "seed",
    "model",
    "name",
    "dtype",
    "template",
    "revision",
    "adapter",
    "lora",
    "r",
    "alpha",
    "target_modules",
    "data",
    "max_length",
    "strategy",
    "gamma",
    "sft",
    "train",
    "epochs",
    "learning_rate",
    "tokens_per_pack",
    "evaluate",
    "split",
    "scores",
    "text_metrics",
    "guard",
    "text",
    "choices",
    "stream",
    "tasks",
    "planted",
    "order",
    "test",
    "path",
    "recipe",
    "map",
    "pairs",
    "good_from",
    "bad_to",
    "checker",
    "supersedes",
    "methods",
    "base",
    "seeds",
    "grid",
    "sweep",
    "selection",
    "metric",
    "title",
    "question",
    "criteria",
    "scale",
    "low",
    "high",
    "anchors",
    "sees",
    "judges",
    "url",
    "key_env",
    "rubric",
    "mode",
    "baseline",
    "max_cost",
    "trackers",
    "<<",
]
settings = st.recursive(
    st.one_of(scalars, st.sampled_from(("lifealign", "ewc", "sequential", "best-worst 2", "a.py:f", "smollm2-135m"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.integers(0, 12), texts), inner, max_size=4),
    ),
    max_leaves=12,
)
PIECES = (
    "a: ", "- ", "? ", ": ", "\n", "  ", "\t", "&a ", "*a", "<<: ", "!!python/name:os.system ", "!!binary ", "!!set ", "!!int ", "!!bool ",
    "[", "]", "{", "}", ",", "|", ">", "'", '"', "#", "---\n", "...\n", "%YAML 1.1\n", "1:1:1", "0x", "1e400", ".inf", "2024-13-01", "~", "yes",
    "stream:", "train:\n", "strategy: {name: ", "\r\n", "\ufeff", "\x85", "a" * 1100,
)  # fmt: skip
pieces = st.lists(st.one_of(st.sampled_from(PIECES), st.sampled_from(KEYS)), max_size=25).map("".join)
yaml_text = st.one_of(
    settings.map(lambda tree: yaml.safe_dump(tree)), settings.map(lambda tree: json.dumps(tree)), pieces
)
yaml_file = changed(yaml_text.map(_encoded))
setting = st.one_of(
    st.builds(lambda keys, value: f"{'.'.join(keys)}={value}", st.lists(st.sampled_from(KEYS), min_size=1, max_size=4), st.one_of(pieces, scalars, yaml_text)),
    texts,
    pieces,
).map(_encoded)  # fmt: skip
