"""Turn rows into token ids: template, response boundary, truncation."""

from __future__ import annotations

import functools
import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from jinja2 import TemplateError

from lifealign.core.errors import DataError
from lifealign.data.tasks import Message, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Literal["chat", "plain"]
Sides: TypeAlias = "tuple[array[int], array[int], array[int]]"
"""Prompt, chosen and rejected answer of a row as ids, not cut."""

FRAMED = "framed"
"""Placeholder for any user turn; no template writes it by itself."""

PLAIN_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class EncodedPair:
    """One row as token ids. `prompt` holds at least one id, each answer at least one.

    Attributes:
        prompt: ids of the rendered prompt, BOS included where the template or tokenizer has one.
        chosen: ids of the preferred answer, ending with EOS unless it was cut.
        rejected: ids of the other answer, ending with EOS unless it was cut.
        chosen_cut: the chosen answer was cut at `max_length`, so its EOS is not trained.
        rejected_cut: the rejected answer was cut at `max_length`, so its EOS is not trained.
        digest: content of the row (`Row.digest`).
        position: of the row among those that were encoded together.
        opening: number of ids that all prompts encoded together begin with. Every packed row branches there at the
            latest, even a row of one pair: in half precision, the place where a prompt is cut changes how attention
            rounds, and a pair must round the same way in every row. Otherwise a policy equal to its reference would have
            a margin.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    chosen_cut: bool
    rejected_cut: bool
    digest: str
    position: int = field(default=0, compare=False)
    opening: int = field(default=0, compare=False)


@dataclass(frozen=True)
class EncodingReport:
    """Rows of one task that encoding cut or left out; each value lists their sources (``file:row``).

    Attributes:
        cut: at least one answer was cut at `max_length`.
        long_prompt: left out, the prompt leaves no room for an answer.
        boundary: left out, no token boundary between prompt and answer, EOS inside the answer, or answers that were cut to
            the same tokens.
    """

    cut: tuple[str, ...] = ()
    long_prompt: tuple[str, ...] = ()
    boundary: tuple[str, ...] = ()

    def lines(self, what: str) -> list[str]:
        """Lines for people about the cut and left-out rows of `what`; empty if every row is whole."""
        causes = {
            "an answer was cut at data.max_length": self.cut,
            "left out because the prompt leaves no room for an answer": self.long_prompt,
            "left out because no token boundary separates prompt and answers, or the answers are equal within "
            "data.max_length": self.boundary,
        }
        return [
            f"{what}: {len(rows)} row{'s' * (len(rows) > 1)}: {cause} ({rows[0]}{', ...' * (len(rows) > 1)})"
            for cause, rows in causes.items()
            if rows
        ]

    def to_json(self) -> dict[str, list[str]]:
        """The report as plain lists."""
        return {"cut": list(self.cut), "long_prompt": list(self.long_prompt), "boundary": list(self.boundary)}


class Encoder:
    """Applies the template once, finds the response boundary in token space, cuts and closes answers.

    The ids of every row are kept, 4 bytes each, for as long as the encoder lives: a task's rows are encoded for training,
    for scores, for replay and for measurements by strategies.

    Args:
        tokenizer: of the base model.
        template: `chat` (the tokenizer's own) or `plain` (role names and line breaks).
        max_length: tokens of prompt plus one answer.
        long_prompts: `error` raises `DataError` for a prompt that leaves no room for an answer, `drop` leaves it out.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        max_length: int,
        long_prompts: Literal["error", "drop"] = "error",
    ) -> None:
        if template == "chat" and not tokenizer.chat_template:
            raise DataError("model.template is 'chat', but the tokenizer has no chat template; allowed: plain, auto")
        if tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no EOS token, so an answer's end cannot be learnt; choose another model")
        self.tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self.long_prompts = long_prompts
        self._known: dict[str, Sides | None] = {}
        self._eos = int(tokenizer.eos_token_id)
        # Tokenizers disagree on whether they add BOS by themselves; an empty text shows what they add in front.
        added = [int(i) for i in tokenizer("", add_special_tokens=True)["input_ids"]]
        self._bos = [i for i in added if i == tokenizer.bos_token_id][:1]

    @functools.cached_property
    def _frame(self) -> tuple[str, str]:
        """Text that the template writes before and after a single user turn, including its default system turn."""
        head, _, tail = self._prompt_text((Message("user", FRAMED),)).partition(FRAMED)
        return head, tail

    def identity(self) -> dict[str, Any]:
        """Hashes of the tokenizer and the template, which decide the ids along with a row's content."""
        backend = getattr(
            self.tokenizer, "backend_tokenizer", None
        )  # all of a fast one: vocabulary, merges, normaliser
        vocabulary = json.dumps(sorted(self.tokenizer.get_vocab().items())) if backend is None else backend.to_str()
        text = self.tokenizer.chat_template if self.template == "chat" else json.dumps(PLAIN_ROLES)
        return {
            "tokenizer_sha256": hashlib.sha256(vocabulary.encode()).hexdigest(),
            "template": self.template,
            "template_sha256": hashlib.sha256(str(text).encode()).hexdigest(),
        }

    def prompt_ids(self, prompt: Sequence[Message]) -> list[int]:
        """Ids of a prompt as it is fed to the model for generation."""
        return self._ids(self._prompt_text(prompt))

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text without a template; BOS comes first if the tokenizer uses one."""
        return self._ids(text)

    def prompt_text(self, ids: Sequence[int]) -> str:
        """The text of a prompt's ids: the turn alone for a single user turn, otherwise all but the special tokens."""
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=False))
        if self._bos and not self._frame[0].startswith(str(self.tokenizer.bos_token)):
            text = text.removeprefix(str(self.tokenizer.bos_token))
        head, tail = self._frame
        if text.startswith(head) and text.endswith(tail):
            text = text[len(head) : len(text) - len(tail)]
        for token in self.tokenizer.added_tokens_decoder.values():
            text = text.replace(token.content, " ") if token.special else text
        return text.strip()

    def encode(self, rows: Sequence[Row], allow_none: bool = False) -> tuple[list[EncodedPair], EncodingReport]:
        """Encode rows in order and report which were cut or left out.

        Raises:
            DataError: a prompt is too long and `long_prompts` is `error`, or no row is left and `allow_none` is not set.
        """
        pairs: list[EncodedPair] = []
        cut: list[str] = []
        long_prompt: list[str] = []
        boundary: list[str] = []
        for position, row in enumerate(rows):
            digest = row.digest
            sides = self._sides(row, digest)
            if sides is None:
                boundary.append(row.source)
                continue
            prompt, chosen, rejected = sides
            room = self.max_length - len(prompt)
            if room < 1:
                if self.long_prompts == "error":
                    raise DataError(
                        f"{row.source}: the prompt has {len(prompt)} tokens, which leaves no room for an answer within "
                        f"data.max_length={self.max_length}; raise it, or set data.long_prompts=drop to leave such rows out"
                    )
                long_prompt.append(row.source)
                continue
            pair = EncodedPair(
                tuple(prompt),
                tuple(chosen[:room]),
                tuple(rejected[:room]),
                len(chosen) > room,
                len(rejected) > room,
                digest,
                position,
            )
            if pair.chosen == pair.rejected:
                boundary.append(row.source)  # cut to the same tokens: nothing left to prefer
                continue
            if pair.chosen_cut or pair.rejected_cut:
                cut.append(row.source)
            pairs.append(pair)
        if rows and not pairs and not allow_none:
            raise DataError(
                f"none of {len(rows)} rows can be used: {len(long_prompt)} prompts leave no room within data.max_length="
                f"{self.max_length}, {len(boundary)} rows have no token boundary between prompt and answer (first: {rows[0].source})"
            )
        opening = common_prefix([p.prompt for p in pairs]) if len(pairs) > 1 else 0
        pairs = [replace(p, opening=opening) for p in pairs]
        return pairs, EncodingReport(tuple(cut), tuple(long_prompt), tuple(boundary))

    def _prompt_text(self, prompt: Sequence[Message]) -> str:
        if self.template == "chat":
            return str(
                self.tokenizer.apply_chat_template(
                    [{"role": m.role, "content": m.content} for m in prompt], tokenize=False, add_generation_prompt=True
                )
            )
        turns = [f"{PLAIN_ROLES[m.role]}: {m.content}\n" for m in prompt]
        return "".join(turns) + f"{PLAIN_ROLES['assistant']}:"

    def _full_text(self, prompt: Sequence[Message], answer: str) -> str:
        if self.template == "chat":
            messages = [{"role": m.role, "content": m.content} for m in prompt]
            return str(
                self.tokenizer.apply_chat_template(
                    [*messages, {"role": "assistant", "content": answer}], tokenize=False, add_generation_prompt=False
                )
            )
        return self._prompt_text(prompt) + " " + answer

    def _ids(self, text: str) -> list[int]:
        ids = [int(i) for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]]
        # A chat template may or may not write BOS itself; it must come first, exactly once, if the tokenizer uses one.
        return ids if not self._bos or ids[:1] == self._bos else self._bos + ids

    def _sides(self, row: Row, digest: str) -> Sides | None:
        """The result of `_split`, computed once for rows of equal content."""
        if digest not in self._known:
            self._known[digest] = self._split(row)
        return self._known[digest]

    def _split(self, row: Row) -> Sides | None:
        """Prompt and the two answers as ids, or None if no token boundary separates them."""
        try:
            prompt = self.prompt_ids(row.prompt)
        except TemplateError as error:
            raise DataError(f"{row.source}: the model's chat template refuses the prompt: {error}") from None
        answers = []
        for answer in (row.chosen, row.rejected):
            full = self._ids(self._full_text(row.prompt, answer))
            if full[: len(prompt)] != prompt:
                return None
            response = full[len(prompt) :]
            if self._eos in response:
                # A template writes EOS and perhaps a line break after the answer: the answer ends with the EOS.
                end = response.index(self._eos)
                tail = self.tokenizer.decode(response[end:], skip_special_tokens=True)
                if tail.strip():
                    return None  # the answer itself spells EOS
                response = response[: end + 1]
            else:
                response = [*response, self._eos]
            if len(response) < 2:
                return None
            answers.append(response)
        return array("i", prompt), array("i", answers[0]), array("i", answers[1])


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Number of ids that all prompts begin with, less than the length of the shortest prompt."""
    limit = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for i in range(limit):
        if any(p[i] != first[i] for p in prompts):
            return i
    return limit
