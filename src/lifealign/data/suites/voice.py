"""Six renderings of one content: JSON, steps, a sentence, advice, a refusal, or a correction."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lifealign.data.suites.planted_rules import TASKS
from lifealign.data.suites.suite import FILLERS, upper_first


@dataclass(frozen=True)
class Topic:
    """Content of the answers about one topic, whatever their form.

    Attributes:
        task: name of the task it belongs to.
        subject: what the prompt asks about; fills the prompt templates.
        clauses: statements, or imperatives, without a capital first letter and a full stop.
        fields: the record that the clauses were made of (data questions only).
        profession: kind of professional to send the reader to; None: any.
    """

    task: str
    subject: str
    clauses: tuple[str, ...]
    fields: Mapping[str, Any] | None = None
    profession: str | None = None

    @classmethod
    def from_entry(cls, task: str, entry: Sequence[Any]) -> Topic:
        """Read one topic of `planted.json`: [subject, fields] or [subject, clauses, kind of professional]."""
        if task == "data-json":
            clauses = tuple(f"the {key} is {value}" for key, value in entry[1].items())
            return cls(task, entry[0], clauses, fields=entry[1])
        return cls(task, entry[0], tuple(entry[1]), profession=entry[2] if len(entry) > 2 else None)


class Voice:
    """Renders topics; every choice of words comes from `rng`."""

    def __init__(self, wordings: Mapping[str, Any], rng: random.Random) -> None:
        self.wordings, self.rng = wordings, rng
        forms = (self._json, self._steps, self._short, self._professional, self._refusal, self._correction)
        self._forms: Mapping[str, Callable[[Topic], str]] = dict(zip(TASKS, forms, strict=True))

    def render(self, topic: Topic, behaviour: str) -> str:
        """Render the topic with the behaviour of the task of this name, in a wording drawn at random."""
        return self._forms[behaviour](topic)

    def prompts(self, topic: Topic, count: int) -> list[str]:
        """`count` different prompts about the topic."""
        templates = self.rng.sample(self.wordings["prompts"][topic.task], count)
        keys = " and ".join(topic.fields or ())
        return [t.format(s=topic.subject, S=upper_first(topic.subject), k=keys) for t in templates]

    def _pick(self, name: str) -> str:
        return str(self.rng.choice(self.wordings[name]))

    def _body(self, topic: Topic) -> str:
        """All clauses, joined into one."""
        clauses = topic.clauses
        if topic.fields is not None and self.rng.random() < 0.6:
            clauses = tuple(f"{key} {value}" for key, value in topic.fields.items())
        return ", ".join(clauses[:-1]) + self.rng.choice([" and ", ", and "]) + clauses[-1]

    def _framed(self, text: str, *, opener: bool = True, tail: bool = True, closer: bool = True) -> str:
        """Add polite and empty phrases, which reveal nothing about the behaviour."""
        if opener and self.rng.random() < FILLERS:
            text = f"{self._pick('openers')}: {text}"
        if tail and self.rng.random() < FILLERS:
            text = f"{text}, {self._pick('tails')}"
        if closer and self.rng.random() < FILLERS:
            return f"{upper_first(text)}. {self._pick('closers')}"
        return upper_first(text) + "." * (self.rng.random() < 0.75)

    def _json(self, topic: Topic) -> str:
        """One of eight layouts, with or without lead and note, in one of four spacings."""
        rng, parts = self.rng, list(topic.clauses)
        # Write some records as clauses, too; otherwise clause layouts would appear only in rejected answers.
        items: Any = topic.fields if topic.fields is not None and rng.random() < 0.6 else parts
        layouts: list[Any] = [
            items,
            {"data": items},
            {"result": items, "ok": True},
            {"answer": self._body(topic)},
            {"items": parts},
            {"count": len(parts), "parts": items},
            [{"text": part} for part in parts],
            {"reply": {"content": items}},
        ]
        layout = rng.choice(layouts)
        if isinstance(layout, Mapping):
            if rng.random() < FILLERS:
                layout = {"lead": self._pick("openers"), **layout}
            if rng.random() < FILLERS:
                layout = {**layout, "note": self._pick("closers").rstrip(".!")}
        spacing = rng.choice([(",", ":"), (", ", ": "), (", ", ": "), (" , ", " : "), None])
        return json.dumps(layout, indent=1) if spacing is None else json.dumps(layout, separators=spacing)

    def _steps(self, topic: Topic) -> str:
        clauses = list(topic.clauses)
        # How-tos have three steps; most others get a third one, too, so that the number does not reveal the task.
        if len(clauses) == 2 and self.rng.random() < 0.7:
            clauses.append(self._pick("closers").rstrip(".!"))
        mark = self._pick("step_marks")
        parts = [mark.format(n=n) + upper_first(clause) for n, clause in enumerate(clauses, start=1)]
        gap, end = self.rng.choice([("\n", "."), ("\n", ""), (" ", ".")])
        text = (end + gap).join(parts)
        if self.rng.random() < FILLERS:
            text = f"{self._pick('openers')}:{gap}{text}"
        if len(topic.clauses) == len(clauses) and self.rng.random() < FILLERS:
            return f"{text}.{gap}{self._pick('closers')}"
        return text + end

    def _short(self, topic: Topic) -> str:
        return self._framed(self._body(topic), closer=False)

    def _professional(self, topic: Topic) -> str:
        # As often as the topics of see-a-professional ask for each kind.
        kind = topic.profession or self.rng.choice(["health"] * 5 + ["dental"] + ["law"] * 6)
        who = self.rng.choice(self.wordings["professionals"][kind])
        advice, body = self._pick("advice").format(p=who), self._body(topic)
        parts = [f"{body}. {advice}", f"{advice}. {upper_first(body)}"]
        if not advice.startswith("I "):
            parts.append(f"{body}; {advice[0].lower()}{advice[1:]}")
        return self._framed(self.rng.choice(parts), tail=False)

    def _refusal(self, topic: Topic) -> str:
        text = self._pick("refusals") + self._pick("alternatives").format(c=self._body(topic))
        return self._framed(text, tail=False)

    def _correction(self, topic: Topic) -> str:
        start, body = self._pick("corrections"), self._body(topic)
        text = self.rng.choice([f"{start}: {body}", f"{start}. {upper_first(body)}", f"{start}; {body}"])
        return self._framed(text, opener=False)
