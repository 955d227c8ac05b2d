"""The chat template of a tokenizer: its text with the date fixed, where an answer begins in it, and how it ends.

Templates are programs. A prompt and the same prompt with its answer are two runs of one, and need not agree: the first
may open a `<think>` block that the second closes, or write no header of the answer at all. So the template is asked
with an answer that is known (`MARK`), and what it writes before and after it is compared with its prompt.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Literal

from lifealign.core.errors import DataError, ModelError
from lifealign.data.reasoning import closing_tag, leaves_open, opened_tag, split_reasoning
from lifealign.data.tasks import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "framed"
"""Stands for a turn's text; no template writes it by itself."""

CLOCK = "strftime_now"
"""The function by which templates read the clock."""

_DIRECTIVES = [f"%{flag}{letter}" for flag in ("-", "") for letter in "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYzZ"]
_PERCENT = "\ue000"


@dataclass(frozen=True)
class Turn:
    """A conversation that the template finished with an answer.

    Attributes:
        text: up to the end of the answer, with the template's own end of the turn if it writes one.
        answer: where the answer begins in `text`; after its reasoning, if it has some.
        end: the template's own end of the turn, e.g. `<|im_end|>`; empty if it writes none.
    """

    text: str
    answer: int
    end: str


class ChatTemplate:
    """Renders conversations with a tokenizer's own template.

    Args:
        tokenizer: with a chat template.
        day: that the template writes as today's date.

    Raises:
        ModelError: several templates, and none is the default.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, day: date) -> None:
        self.tokenizer = tokenizer
        try:
            self.text = str(tokenizer.get_chat_template())
        except ValueError:
            raise ModelError(
                "the tokenizer has several chat templates and none is named default; name one so, or set model.template=plain"
            ) from None
        self.writes_date = CLOCK in self.text
        self._pinned = with_date(self.text, day) if self.writes_date else None
        added = {str(token.content) for token in tokenizer.added_tokens_decoder.values()}
        ends = sorted(added | {str(tokenizer.eos_token)}, key=len, reverse=True)
        self._end = re.compile("|".join(re.escape(end) for end in ends))

    @property
    def pinned(self) -> str:
        """The template's text with its date fixed, for others who render it."""
        return self._pinned or self.text

    def render(self, messages: Sequence[Message], *, generation: bool) -> str:
        """The conversation as text.

        Args:
            messages: its turns.
            generation: with what the template writes before an answer is generated.

        Raises:
            DataError: the template refuses the conversation; has its own words.
        """
        turns = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns, chat_template=self._pinned, tokenize=False, add_generation_prompt=generation
                )
            )
        except Exception as error:  # a template is a program of others; whatever it raises is its refusal
            raise DataError(_refusal(messages, str(error))) from None

    @functools.cached_property
    def _frame(self) -> tuple[str, str, str, str] | None:
        """A user turn: without and with generation prompt, before an answer, after it. None: it shows no answer."""
        turns = (Message("user", MARK),)
        try:
            plain, prompt = (self.render(turns, generation=generation) for generation in (False, True))
            again = self.render(turns, generation=True)
            whole = self.render((*turns, Message("assistant", MARK)), generation=False)
        except DataError:
            return None  # it wants more than a single user turn: a row will show its words
        if prompt != again:
            raise ModelError(
                "the model's chat template writes something else each time it is asked, so a memory's prompts would not "
                "stay the same; remove what is random from it, or set model.template=plain"
            )
        head, mark, tail = whole.rpartition(MARK)
        return (plain, prompt, head, tail) if mark and MARK in head else None

    @functools.cached_property
    def end(self) -> str:
        """What ends an answer, e.g. `<|im_end|>`; empty if the template writes no such token."""
        return "" if self._frame is None else self._end_of(self._frame[3])[1]

    @functools.cached_property
    def opens(self) -> str | None:
        """The tag of reasoning that the generation prompt opens and an answer without reasoning does not continue."""
        if self._frame is None:
            return None
        plain, prompt, head, _ = self._frame
        tag = opened_tag(prompt[_shared(plain, prompt) :])
        return tag if tag and not leaves_open(head, tag) else None

    @functools.cached_property
    def starts_at(self) -> Literal["prompt", "answer"]:
        """Where answers begin: at the end of the template's `prompt`, or where it writes the `answer` of a finished turn.

        The second holds if no answer can follow the prompt: it has no header of the answer, or opens reasoning.
        """
        if self._frame is None:
            return "prompt"
        plain, prompt, head, _ = self._frame
        return "answer" if self.opens or (prompt == plain and head.rstrip() != prompt.rstrip()) else "prompt"

    def prompt(self, messages: Sequence[Message], reasons: bool = False) -> str:
        """The text that an answer follows.

        Args:
            messages: the conversation, up to a user turn.
            reasons: the answer begins with reasoning.

        Raises:
            DataError: the template refuses the conversation.
        """
        if self.starts_at == "prompt" or (reasons and self.opens):
            return self.render(messages, generation=True)
        plain = self.render(messages, generation=False)
        head = self._before_answer(messages)
        # A template may move a part of the prompt (a system text, say) to where no answer follows; then it is lost here.
        # Tokenizers join a space with the word behind it, so it belongs to the answer.
        return head.rstrip(" ") if head.startswith(plain) else self.render(messages, generation=True)

    def finished(self, messages: Sequence[Message], answer: str) -> Turn | None:
        """The conversation with its answer; None if the template does not write the answer whole.

        White space around the answer, and around its reasoning, may differ.

        Raises:
            DataError: the template refuses the conversation.
        """
        text = self.render((*messages, Message("assistant", answer)), generation=False)
        tail = None if self._frame is None else self._frame[3]
        if tail is None or not text.endswith(tail):
            marked = self.render((*messages, Message("assistant", MARK)), generation=False)
            _, mark, tail = marked.rpartition(MARK)
            if not mark or not text.endswith(tail):
                return None
        before = text[: len(text) - len(tail)]
        start = self._place(messages, before, answer)
        if start is None:
            return None
        kept, end = self._end_of(tail)
        return Turn(before + kept, start, end)

    def continued(self, messages: Sequence[Message], prompt: str, answer: str) -> Turn | None:
        """The answer put after a prompt that the template's own finished turn does not continue.

        None if the prompt opens reasoning, the answer has none, and the template does not show how to close it.
        """
        head = self._before_answer(messages)
        kept, end = self._end_of("" if self._frame is None else self._frame[3])
        tag = self.opens if self.opens and prompt.rstrip().endswith(self.opens) else None
        parts = split_reasoning(answer)
        if tag and parts:
            opening = f"{parts.reasoning}\n{closing_tag(tag)}\n\n"
        elif tag:
            if not head.startswith(prompt):
                return None
            opening = head[len(prompt) :]
        else:
            opening = "" if prompt[-1:].isspace() else head[len(head.rstrip()) :]
        start = len(prompt) + len(opening)
        body = parts.answer if tag and parts else answer.strip()
        return Turn(prompt + opening + body + kept, start, end)

    def left_out(self, messages: Sequence[Message], prompt: str) -> bool:
        """Whether the template leaves a part of the conversation out of its prompt."""
        return any(m.content.strip() not in prompt for m in messages)

    def _before_answer(self, messages: Sequence[Message]) -> str:
        return self.render((*messages, Message("assistant", MARK)), generation=False).rpartition(MARK)[0]

    def _place(self, messages: Sequence[Message], before: str, answer: str) -> int | None:
        """Where the answer begins in the text that ends with it; None if it is not there whole."""
        for form in (answer, answer.strip()):
            if form and before.endswith(form):
                parts = split_reasoning(form)
                return len(before) - len(form if parts is None else parts.answer)
        parts = split_reasoning(answer)
        if parts is None or not before.rstrip().endswith(parts.answer.rstrip()):
            return None
        start = len(before.rstrip()) - len(parts.answer.rstrip())
        since = _shared(self.render(messages, generation=False), before)
        return start if parts.reasoning in before[since:start] else None

    def _end_of(self, tail: str) -> tuple[str, str]:
        """Of what the template writes after an answer: the part that belongs to the turn, and the token that ends it."""
        found = self._end.search(tail)
        return (tail[: found.end()], found.group()) if found and found.group() else (tail.rstrip(), "")


def _shared(one: str, other: str) -> int:
    """Number of characters that two texts begin with in common."""
    differs = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differs, min(len(one), len(other)))


def _refusal(messages: Sequence[Message], words: str) -> str:
    way = "leave the row out, or make a new memory with model.template=plain"
    if any(m.role == "system" for m in messages):
        way = "leave the row out, or put its system text in the user's turn: by hand, or in a new memory with data.system=merge"
    return f"the model's chat template refuses the prompt: {words.strip().rstrip('.')}; {way}"


def once(template: ChatTemplate) -> list[str]:
    """What a person should know of a template before a memory is made with it."""
    lines = []
    if template.opens:
        lines.append(
            f"the chat template opens {template.opens} in the generation prompt; answers without reasoning are learnt and "
            "generated outside of it, where the template writes them in a finished turn"
        )
    elif template.starts_at == "answer":
        lines.append("the chat template has no generation prompt; prompts end where the template writes the answer")
    if template.end and template.end != template.tokenizer.eos_token:
        lines.append(
            f"answers end with {template.end}, which the chat template writes, and not with the tokenizer's EOS "
            f"{template.tokenizer.eos_token}"
        )
    return lines


def with_date(template: str, day: date) -> str:
    """A template whose clock stands still at the midnight that begins `day`.

    The clock is replaced by a macro in the template's own language, so the text gives the same prompts to whoever
    renders it, on any day.
    """
    moment = datetime.combine(day, time())
    known = [(d, moment.strftime(d)) for d in _DIRECTIVES]
    steps = [("%%", _PERCENT), *((d, text) for d, text in known if text != d), (_PERCENT, "%")]
    filters = "".join(f" | replace({name!r}, {text!r})" for name, text in steps)
    # The line break is taken by `trim_blocks`, and the template begins at the beginning of a line as before.
    return f"{{%- macro {CLOCK}(format) -%}}{{{{ format{filters} }}}}{{%- endmacro %}}\n{template}"


def merge_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with its system text at the head of its first user turn."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    turns = [m for m in messages if m.role != "system"]
    first = next((i for i, m in enumerate(turns) if m.role == "user"), None)
    if not system or first is None:
        return tuple(messages)
    turns[first] = Message("user", f"{system}\n\n{turns[first].content}")
    return tuple(turns)
