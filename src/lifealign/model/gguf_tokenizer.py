"""A tokenizer and its chat template as fields of a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lifealign.core.errors import ConfigError
from lifealign.model.gguf_layout import load_gguf

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True)
class Splitting:
    """One of llama.cpp's ways to split a text before byte pairs are merged.

    Attributes:
        name: llama.cpp's.
        steps: the same in the tokenizer's own file: (type, and its pattern or whether digits stand alone) of each step.
        whole_words: a word that is a token is not merged from its bytes.
    """

    name: str
    steps: tuple[tuple[str, str | bool], ...]
    whole_words: bool = False


SPLITTINGS = (
    Splitting("gpt-2", (("ByteLevel", True),)),
    Splitting("smollm", (("Digits", True), ("ByteLevel", True))),
    Splitting("llama-bpe", (("Split", _LLAMA3), ("ByteLevel", False)), whole_words=True),
    Splitting("qwen2", (("Split", _QWEN2), ("ByteLevel", False))),
)


def copy_fields(source: Path, writer: Any, prefix: str, leave: tuple[str, ...] = ()) -> None:
    """Copy the fields of a GGUF file whose names begin with a prefix, but for those to leave."""
    gguf = load_gguf()
    for name, field in gguf.GGUFReader(source).fields.items():
        if name.startswith(prefix) and name not in leave:
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub)


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, rows: int, chat: bool, writer: Any) -> None:
    """Write the fields of a byte-level BPE tokenizer.

    Args:
        tokenizer: of the base model.
        rows: of the embedding matrix; ids that the tokenizer lacks get unused tokens.
        chat: with its chat template.
        writer: of the file.

    Raises:
        ConfigError: a tokenizer that llama.cpp would read in another way, or that was not compared with llama.cpp's.
    """
    gguf = load_gguf()
    known = json.loads(tokenizer.backend_tokenizer.to_str()) if hasattr(tokenizer, "backend_tokenizer") else {}
    splitting = _splitting(known)
    tokens = {index: text for text, index in known["model"]["vocab"].items()}
    kinds = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
    for added in known["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    if max(tokens) >= rows:
        raise ConfigError(f"the tokenizer has ids up to {max(tokens)}, the model {rows} rows; no GGUF export")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting.name)
    writer.add_token_list([tokens.get(i, f"[PAD{i}]") for i in range(rows)])
    writer.add_token_types([kinds.get(i, gguf.TokenType.UNUSED) for i in range(rows)])
    merges = known["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for name in ("bos", "eos", "pad"):
        if (index := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(int(index))
    first = tokenizer("", add_special_tokens=True)["input_ids"]
    writer.add_add_bos_token(bool(first) and first[0] == tokenizer.bos_token_id)
    if chat:
        writer.add_chat_template(str(tokenizer.chat_template))


def _splitting(known: Mapping[str, Any]) -> Splitting:
    """How a tokenizer splits a text, by what its file declares.

    Raises:
        ConfigError: llama.cpp has no such way, or it was not compared with llama.cpp's.
    """
    model = known.get("model", {})
    normalizer = (known.get("normalizer") or {}).get("type")
    if model.get("type") == "BPE" and not model.get("byte_fallback") and normalizer in (None, "NFC"):
        steps = _steps(known.get("pre_tokenizer") or {})
        for splitting in SPLITTINGS:
            if steps == splitting.steps and bool(model.get("ignore_merges")) == splitting.whole_words:
                return splitting
    names = ", ".join(s.name for s in SPLITTINGS)
    raise ConfigError(
        f"no GGUF export for this tokenizer: its texts were not compared with llama.cpp's; allowed: byte-level BPE that splits "
        f"as {names}; export with --format merged and use llama.cpp's converter, or with --format gguf-lora"
    )


def _steps(step: Mapping[str, Any]) -> tuple[tuple[str, str | bool], ...]:
    kind = step.get("type")
    if kind == "Sequence":
        return tuple(found for part in step["pretokenizers"] for found in _steps(part))
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return (("ByteLevel", bool(step.get("use_regex", True))),)
    if kind == "Digits":
        return (("Digits", bool(step.get("individual_digits"))),)
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return (("Split", str(step["pattern"].get("Regex"))),)
    return ((str(kind), False),)
