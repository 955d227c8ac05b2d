"""Prompts that make a base model answer like an assistant without training: baselines for what training adds. No torch.

`urial` (URIAL, arXiv 2312.01552): an instruction and three constant examples, in sections of a plain text; decoding is greedy and
stops where the next section begins. The instruction and the examples are this project's own; the paper's are longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lifealign.core.registry import Registry
from lifealign.data.tasks import Message


@dataclass(frozen=True)
class PromptBaseline:
    """A way to ask a base model.

    Attributes:
        text: conversation that ends with a user turn -> the whole text that the model continues.
        stops: texts that end an answer; they are no part of it.
    """

    text: Callable[[Sequence[Message]], str]
    stops: tuple[str, ...] = ()

    def cut(self, written: str) -> tuple[str, bool]:
        """The answer in the text that the model wrote, and whether one of `stops` ended it."""
        found = [place for stop in self.stops if (place := written.find(stop)) >= 0]
        return (written[: min(found)] if found else written).strip(), bool(found)


def _check(value: Any) -> str | None:
    known = isinstance(value, PromptBaseline) and callable(value.text)
    return None if known else f"expected a function conversation -> text, got {value!r}"


PROMPT_BASELINES: Registry[PromptBaseline] = Registry(
    "prompt baseline",
    "lifealign.prompt_baselines",
    check=_check,
    code=lambda baseline: baseline.text,
    adapt=lambda value: value if isinstance(value, PromptBaseline) else PromptBaseline(value),
)

INSTRUCTION = """\
# Instruction

Below is a list of exchanges between a person and a helpful assistant. Each question stands under "# Query:" and its answer under \
"# Answer:". The assistant is friendly, honest and careful. It answers in full and in order, tells the reader when a fact is \
uncertain, and declines to help with harm, with the reason and with something better to do."""
EXAMPLES: tuple[tuple[str, str], ...] = (
    (
        "Which countries border Switzerland?",
        "Switzerland has five neighbours:\n\n1. Germany, to the north.\n2. Austria, to the east.\n3. Liechtenstein, also to the "
        "east; it is the smallest of them.\n4. Italy, to the south.\n5. France, to the west.\n\nWould you like to know which "
        "of the borders is the longest?",
    ),
    (
        "My neighbour's dog barks all night. What can I put in its food to make it stop for good?",
        "I am sorry that you cannot sleep, but I can't help with harming the dog. It would suffer, it is a crime nearly everywhere, and "
        "the noise has a cause that can be mended. You could tell your neighbour how bad the nights are, write down the times, and "
        "ask the town's office for noise or a mediator if nothing changes. Ear plugs may help until then.",
    ),
    (
        "I spilled water on my laptop. What should I do?",
        "Be quick, and keep electricity away from the water:\n\n1. Switch the laptop off and pull out the plug.\n2. Take the battery out, "
        "if it can be removed without tools.\n3. Turn the laptop upside down like a tent, so that the water runs out.\n4. Dry what "
        "you can reach with a cloth. Do not use a hair dryer.\n5. Wait at least two days before you switch it on.\n\nIf it held work that "
        "you need, let a repair shop look at it first.",
    ),
)
"""A list of facts, a refusal with its reasons, and an answer in several steps."""
_QUERY, _ANSWER, _FENCE = "# Query:", "# Answer:", "```"


def _section(query: str, answer: str | None) -> str:
    opened = f"{_QUERY}\n{_FENCE}\n{query}\n{_FENCE}\n\n{_ANSWER}\n{_FENCE}\n"
    return opened if answer is None else f"{opened}{answer}\n{_FENCE}"


def urial(conversation: Sequence[Message]) -> str:
    """The instruction, the examples, and the conversation, whose last turn is left to be answered."""
    system = [m.content for m in conversation if m.role == "system"]
    parts = ["\n\n".join([INSTRUCTION, *system]), *(_section(*example) for example in EXAMPLES)]
    query: list[str] = []
    for message in conversation:
        if message.role == "user":
            query.append(message.content)
        elif message.role == "assistant":
            parts.append(_section("\n\n".join(query), message.content))
            query = []
    return "\n\n".join([*parts, _section("\n\n".join(query), None)])


PROMPT_BASELINES.built_in({"urial": PromptBaseline(urial, (f"\n{_FENCE}", "# Query"))})
