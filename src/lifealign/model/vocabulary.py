"""Tokens that a tokenizer knows and the model has no embedding for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lifealign.core.errors import ModelError
from lifealign.model.encoding import Template


def embeddings(model: PreTrainedModel) -> int:
    """Number of token ids that a model takes: the rows of its input embedding."""
    return int(cast(Any, model.get_input_embeddings()).weight.shape[0])


def check_vocabulary(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: Template
) -> list[str]:
    """Compare the tokenizer's ids with the model's embedding, and return a sentence about ids that are beyond it.

    A few added tokens beyond it do no harm as long as no text has them (Gemma 3 has one for images). Encoding refuses a
    text that does.

    Raises:
        ModelError: ordinary tokens, the end of an answer or the chat template need ids that the model does not have.
    """
    rows = embeddings(model)
    beyond = {token: int(i) for token, i in tokenizer.get_vocab().items() if int(i) >= rows}
    if not beyond:
        return []
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    needed = {token: use for token, use in _needed(tokenizer, template).items() if token in beyond}
    needed |= {token: "an ordinary token" for token in beyond if token not in added}
    where = (
        f"base model {name!r}: its tokenizer has ids up to {max(beyond.values())}, but its embedding has {rows} rows"
    )
    if needed:
        token = min(needed, key=lambda t: beyond[t])
        raise ModelError(
            f"{where}, and {token!r} (id {beyond[token]}) is {needed[token]}; use the tokenizer that belongs to the model, "
            "or enlarge the embedding (resize_token_embeddings) and save the model"
        )
    shown = ", ".join(repr(t) for t in sorted(beyond, key=lambda t: beyond[t])[:3])
    return [f"{where}; rows with one of these tokens are refused: {shown}{', ...' * (len(beyond) > 3)}"]


def _needed(tokenizer: PreTrainedTokenizerBase, template: Template) -> Mapping[str, str]:
    """Token -> its use, for the tokens that every row gets."""
    found = {str(t): "the beginning or end of a text" for t in (tokenizer.bos_token, tokenizer.eos_token) if t}
    if template == "chat":
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            text = str(tokenizer.apply_chat_template(turns, tokenize=False))
        except Exception:  # a template is a program of others; encoding reports it with a row
            return found
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found |= dict.fromkeys(tokenizer.convert_ids_to_tokens(ids), "written by the chat template")
    return found
