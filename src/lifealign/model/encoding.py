"""Turn rows into token ids: template, response boundary, truncation."""

from __future__ import annotations

import functools
import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from lifealign.core.errors import DataError
from lifealign.data.reasoning import split_reasoning
from lifealign.data.tasks import Message, Row
from lifealign.model.encoded import (
    BOUNDARY,
    CUT_REASONING,
    EMPTY,
    MIXED,
    NO_ROOM,
    NOT_WHOLE,
    EncodingReport,
    Reasoning,
    Sides,
    Tally,
)
from lifealign.model.encoded import (
    EncodedPair as EncodedPair,
)
from lifealign.model.template import ChatTemplate, Turn, merge_system

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Literal["chat", "plain"]

FRAMED = "framed"
"""Placeholder for any user turn; no template writes it by itself."""

PLAIN_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


class Encoder:
    """Applies the template once, finds the response boundary in token space, cuts and closes answers.

    The ids of every row are kept, 4 bytes each, for as long as the encoder lives: a task's rows are encoded for training,
    for scores, for replay and for measurements by strategies.

    Args:
        tokenizer: of the base model.
        template: `chat` (the tokenizer's own) or `plain` (role names and line breaks).
        max_length: tokens of prompt plus one answer.
        long_prompts: `error` raises `DataError` for a prompt that leaves no room for an answer, `drop` leaves it out.
        reasoning: of answers: `train` it, `mask` it (read, but not trained), or `drop` it.
        system: `merge` puts system texts at the head of the first user turn, `keep` leaves them to the template.
        day: that the template writes as today's date; None: today. vocabulary: number of ids that the model takes; None: any.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        max_length: int,
        long_prompts: Literal["error", "drop"] = "error",
        *,
        reasoning: Reasoning = "train",
        system: Literal["keep", "merge"] = "keep",
        day: date | None = None,
        vocabulary: int | None = None,
    ) -> None:
        if template == "chat" and not tokenizer.chat_template:
            raise DataError("model.template is 'chat', but the tokenizer has no chat template; allowed: plain, auto")
        if tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no EOS token, so an answer's end cannot be learnt; choose another model")
        self.tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self.long_prompts = long_prompts
        self.reasoning = reasoning
        self.system = system
        self.vocabulary = vocabulary
        self._eos = int(tokenizer.eos_token_id)
        # Tokenizers disagree on whether they add BOS by themselves; an empty text shows what they add in front.
        added = [int(i) for i in tokenizer("", add_special_tokens=True)["input_ids"]]
        self._bos = [i for i in added if i == tokenizer.bos_token_id][:1]
        self.fix_date(date.today() if day is None else day)

    def fix_date(self, day: date) -> None:
        """Let the template write this date from now on."""
        self.day = day
        self.chat = ChatTemplate(self.tokenizer, day) if self.template == "chat" else None
        self._known: dict[str, Sides | str] = {}
        for name in ("_frame", "_joins"):
            self.__dict__.pop(name, None)

    @property
    def writes_date(self) -> bool:
        """Whether the template can write today's date."""
        return self.chat is not None and self.chat.writes_date

    @property
    def ends(self) -> list[int]:
        """Ids that end an answer: the tokenizer's EOS, and the end of a turn that the template writes."""
        own = self.chat.end if self.chat else ""
        return sorted({self._eos, int(self.tokenizer.convert_tokens_to_ids(own)) if own else self._eos})

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

    def prompt_ids(self, prompt: Sequence[Message], reasons: bool = False) -> list[int]:
        """Ids of a prompt as it is fed to the model for generation.

        Args:
            prompt: the conversation.
            reasons: an answer with reasoning is wanted; matters only to templates that open it in the prompt.

        Raises:
            DataError: the template refuses the prompt; has its own words.
        """
        return self._open_ids(self._prompt_text(self._merged(prompt), reasons))

    def as_learnt(self, row: Row) -> Row:
        """The row with the answers that are learnt: without their reasoning if it is dropped."""
        return replace(row, chosen=_last(row.chosen), rejected=_last(row.rejected)) if self.reasoning == "drop" else row

    def reasons(self, row: Row) -> bool:
        """Whether the row is learnt with reasoning in an answer."""
        return self.reasoning != "drop" and any(split_reasoning(a) is not None for a in (row.chosen, row.rejected))

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
        found = Tally()
        for position, row in enumerate(rows):
            pair = self._pair(row, position, found)
            if pair is not None:
                pairs.append(pair)
        if rows and not pairs and not allow_none:
            reasons = "".join(f", {len(rows)} are left out because {reason}" for reason, rows in found.refused.items())
            raise DataError(
                f"none of {len(rows)} rows can be used: {len(found.long_prompt)} prompts leave no room within data.max_length="
                f"{self.max_length}, {len(found.boundary)} rows have no token boundary between prompt and answer{reasons} "
                f"(first: {rows[0].source})"
            )
        opening = common_prefix([p.prompt for p in pairs]) if len(pairs) > 1 else 0
        pairs = [replace(p, opening=opening) for p in pairs]
        return pairs, found.report(self.reasoning)

    def _pair(self, row: Row, position: int, found: Tally) -> EncodedPair | None:
        """One row, cut to `max_length`; None if it is left out. Its part of the report goes into `found`."""
        digest = row.digest
        sides = self._sides(row, digest)
        if isinstance(sides, str):
            found.leave_out(sides, row.source)
            return None
        room = self.max_length - len(sides.prompt)
        if room < 1:
            if self.long_prompts == "error":
                raise DataError(
                    f"{row.source}: the prompt has {len(sides.prompt)} tokens, which leaves no room for an answer within "
                    f"data.max_length={self.max_length}; raise it, or set data.long_prompts=drop to leave such rows out"
                )
            found.long_prompt.append(row.source)
            return None
        if room <= max(sides.context):
            found.leave_out(NO_ROOM, row.source)
            return None
        chosen, rejected = sides.answers
        pair = EncodedPair(
            tuple(sides.prompt),
            tuple(chosen[:room]),
            tuple(rejected[:room]),
            len(chosen) > room,
            len(rejected) > room,
            digest,
            position,
            chosen_context=sides.context[0],
            rejected_context=sides.context[1],
            kind=row.kind,
            gap=row.margin or 0.0,
        )
        if pair.chosen == pair.rejected:
            found.leave_out(BOUNDARY, row.source)  # cut to the same tokens: nothing left to prefer
            return None
        found.keep(row.source, cut=pair.chosen_cut or pair.rejected_cut, part=sides.part, reasons=sides.reasons)
        return pair

    def _merged(self, prompt: Sequence[Message]) -> Sequence[Message]:
        return merge_system(prompt) if self.system == "merge" else prompt

    def _prompt_text(self, prompt: Sequence[Message], reasons: bool = False) -> str:
        if self.chat is not None:
            return self.chat.prompt(prompt, reasons)
        turns = [f"{PLAIN_ROLES[m.role]}: {m.content}\n" for m in prompt]
        return "".join(turns) + f"{PLAIN_ROLES['assistant']}:"

    def _ids(self, text: str) -> list[int]:
        ids = [int(i) for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]]
        if self.vocabulary is not None and max(ids, default=0) >= self.vocabulary:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise DataError(f"{token!r} is a token without an embedding; remove it")
        # A chat template may or may not write BOS itself; it must come first, exactly once, if the tokenizer uses one.
        return ids if not self._bos or ids[:1] == self._bos else self._bos + ids

    def _open_ids(self, text: str) -> list[int]:
        """Ids of a prompt as they are with an answer behind it.

        Some tokenizers join line breaks at the end of a text, but not before a word. Then the prompt is read with one.
        """
        return self._before_word(text) if self._joins else self._ids(text)

    def _before_word(self, text: str) -> list[int]:
        whole = self._ids(text + FRAMED)
        word = [int(i) for i in self.tokenizer(FRAMED, add_special_tokens=False)["input_ids"]]
        return whole[: -len(word)] if whole[-len(word) :] == word else self._ids(text)

    @functools.cached_property
    def _joins(self) -> bool:
        """Whether a prompt's end is read in another way if an answer follows."""
        if self.chat is None:
            return False
        if self.chat.starts_at == "answer":
            return True
        try:
            text = self._prompt_text((Message("user", FRAMED),))
        except DataError:
            return False  # the template wants more than one turn
        alone = self._ids(text)
        return self._ids(text + FRAMED)[: len(alone)] != alone

    def _sides(self, row: Row, digest: str) -> Sides | str:
        """The result of `_split`, computed once for rows of equal content."""
        if digest not in self._known:
            try:
                self._known[digest] = self._split(row)
            except DataError as error:
                raise DataError(f"{row.source}: {error}") from None
        return self._known[digest]

    def _split(self, row: Row) -> Sides | str:
        """Prompt and answers as ids, or the reason why they cannot be told apart or are not whole."""
        given = [answer for answer in (row.chosen, row.rejected) if answer]
        parts = [split_reasoning(answer) for answer in given]
        answers = [_last(a) if self.reasoning == "drop" else a for a in given]
        if not all(a.strip() for a in answers):
            return EMPTY
        prompt, reasons = self._merged(row.prompt), self.reasons(row)
        text = self._prompt_text(prompt, reasons)
        turns = self._turns(prompt, text, answers, reasons)
        if isinstance(turns, str):
            return turns
        prompt_ids = self._open_ids(text)
        responses = [self._response(prompt_ids, text, turn) for turn in turns]
        if None in responses and self.chat is not None and not any(a[:1].isspace() for a in answers):
            # What the template writes before an answer may merge over the boundary where the answer alone does not.
            again = [self.chat.continued(prompt, text, answer) for answer in answers]
            responses = [None if turn is None else self._response(prompt_ids, text, turn) for turn in again]
            turns = [turn for turn in again if turn is not None]
        if None in responses:
            return BOUNDARY
        masked = [self.reasoning == "mask" and part is not None for part in parts]
        context = [self._context(prompt_ids, t) if m else 0 for t, m in zip(turns, masked, strict=True)]
        sides = [(array("i", response or ()), ids) for response, ids in zip(responses, context, strict=True)]
        chosen = sides.pop(0) if row.chosen else (array("i"), 0)
        rejected = sides.pop(0) if row.rejected else (array("i"), 0)
        return Sides(
            array("i", prompt_ids),
            (chosen[0], rejected[0]),
            (chosen[1], rejected[1]),
            any(part is not None for part in parts),
            self.chat is not None and self.chat.left_out(prompt, text),
        )

    def _turns(self, prompt: Sequence[Message], text: str, answers: Sequence[str], reasons: bool) -> list[Turn] | str:
        """The prompt with each of its answers, as text; or the reason why the template cannot write them."""
        if self.chat is None:
            return [Turn(f"{text} {a}", len(text) + 1 + len(a) - len(_last(a)), "") for a in answers]
        if self.chat.opens and reasons:
            continued = [self.chat.continued(prompt, text, a) for a in answers]
            return MIXED if None in continued else [turn for turn in continued if turn is not None]
        finished = [self.chat.finished(prompt, a) for a in answers]
        if None in finished:
            return CUT_REASONING if reasons else NOT_WHOLE
        turns = [turn for turn in finished if turn is not None]
        if all(turn.text.startswith(text) for turn in turns):
            return turns
        continued = [self.chat.continued(prompt, text, a) for a in answers]
        return MIXED if None in continued else [turn for turn in continued if turn is not None]

    def _response(self, prompt: Sequence[int], text: str, turn: Turn) -> list[int] | None:
        """Ids of an answer with one end; None without a token boundary, or if the answer itself spells an end."""
        full = self._ids(turn.text)
        if full[: len(prompt)] == prompt:
            response = full[len(prompt) :]
        elif self.chat is not None and text.rstrip().endswith(self.chat.opens or "\0"):
            # What closes the reasoning (a line break) would merge with the prompt's end, which generation never sees.
            response = [int(i) for i in self.tokenizer(turn.text[len(text) :], add_special_tokens=False)["input_ids"]]
        else:
            return None
        if not turn.end:
            response = [*response, self._eos]
        if len(response) < 2 or any(i in self.ends for i in response[:-1]):
            return None
        return response

    def _context(self, prompt: Sequence[int], turn: Turn) -> int:
        """Number of ids of an answer that come before what follows its reasoning."""
        full, before = self._ids(turn.text), self._before_word(turn.text[: turn.answer])
        same = next((i for i, (a, b) in enumerate(zip(full, before, strict=False)) if a != b), len(before))
        return max(0, same - len(prompt))


def _last(answer: str) -> str:
    """An answer without its reasoning."""
    parts = split_reasoning(answer)
    return answer if parts is None else parts.answer


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Number of ids that all prompts begin with, less than the length of the shortest prompt."""
    limit = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for i in range(limit):
        if any(p[i] != first[i] for p in prompts):
            return i
    return limit
