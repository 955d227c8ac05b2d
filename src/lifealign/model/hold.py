"""Hold rules while decoding: beam search whose candidates are judged on a greedy look-ahead (DeAL, arXiv 2402.06147).

Each step takes the `top_k` likeliest tokens of every beam, writes `lookahead` tokens greedily after each, and scores a candidate
by log P(y_1..t) + strength * sum_i w_i R_i(text with the look-ahead), R_i in [0, 1]. Beams that ended are compared by
log P / tokens + strength * sum_i w_i R_i, so that a short answer has no advantage. With strength 0 it is plain beam search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from lifealign.core.errors import ConfigError
from lifealign.core.frozen import Frozen
from lifealign.data.prompts import CutAnswer, Decoded, decoded
from lifealign.data.rule_values import Value, find_value
from lifealign.data.suites.rules import Rule
from lifealign.model.decoding import Conversation, Decoder, Speaker


class Hold(Decoder):
    """Beam search that holds rules, such as an earlier task's own while its recovery is pending."""

    class Config(Frozen):
        """Options of held rules."""

        rules: tuple[str, ...] = Field(min_length=1)
        """Rules to hold, as of `--hold`."""
        weights: tuple[float, ...] | None = None
        """Weight of each rule, in their order; None: 1 each. 0 <= weight."""
        strength: float = Field(10.0, ge=0)
        """Nats that a rule of weight 1 is worth: the paper's lambda. 0 <= strength; 0: plain beam search."""
        beams: int = Field(2, ge=1)
        """Answers that are carried on. 1 <= beams."""
        top_k: int = Field(3, ge=1)
        """Candidates of each beam, the likeliest tokens; at least as many as beams and ends need. 1 <= top_k."""
        lookahead: int = Field(10, ge=0)
        """Tokens written greedily after a candidate before it is judged. 0 <= lookahead."""

        @model_validator(mode="after")
        def _one_weight_each(self) -> Any:
            if self.weights is not None and len(self.weights) != len(self.rules):
                raise ValueError(
                    f"{len(self.weights)} weights for {len(self.rules)} rules; give one weight for each rule"
                )
            if any(weight < 0 for weight in self.weights or ()):
                raise ValueError(f"a weight is 0 or more, got {list(self.weights or ())}")
            return self

    _values: Sequence[Value] = ()

    def bind(self, rule_of: Callable[[str], Rule] | None) -> None:
        """See `Decoder.bind`."""
        self._values = [find_value(rule, rule_of) for rule in self.config.rules]

    def check(self, options: Mapping[str, Any]) -> None:
        """See `Decoder.check`."""
        if options.get("temperature"):
            raise ConfigError(
                f"temperature={options['temperature']:g} has no effect on held rules, which are searched for; leave it out"
            )

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each rule."""
        return self.config.weights or (1.0,) * len(self.config.rules)

    def held(self, text: str) -> float:
        """sum_i w_i R_i of a text."""
        return sum(weight * value(text) for weight, value in zip(self.weights, self._values, strict=True))

    def answer(self, speaker: Speaker, prompts: Sequence[Conversation]) -> list[str]:
        """See `Decoder.answer`; one prompt after the other, `top_k` candidates of each beam at once."""
        from lifealign.model.generate import ids_of_prompts

        ids = ids_of_prompts(speaker.encoder, prompts, speaker.prefix, speaker.reasons)
        answers = []
        with speaker.progress.stage(speaker.title, len(ids), "answers") as stage:
            for prompt in ids:
                answers.append(self._one(speaker, prompt))
                stage.advance(1)
        return answers

    def told(self, answers: Sequence[str]) -> list[str]:
        """See `Decoder.told`."""
        values = [list(answer.decoding["values"]) for answer in answers if isinstance(answer, Decoded)]
        means = [sum(column) / len(column) for column in zip(*values, strict=True)]
        return [
            f"held {rule}: {mean:.2f} of 1 on average" for rule, mean in zip(self.config.rules, means, strict=False)
        ]

    def _one(self, speaker: Speaker, prompt: Sequence[int]) -> str:
        from lifealign.model.hold_search import Search

        search = Search(speaker, prompt, self.config, self.held, sum(self.weights))
        best = search.run()
        text = search.text(best.ids)
        how = {
            "decoder": "hold",
            "rules": list(self.config.rules),
            "weights": list(self.weights),
            "values": [value(text) for value in self._values],
            **self.config.model_dump(include={"strength", "beams", "lookahead"}),
            "top_k": search.top_k,
            "log_prob": best.log_prob,
            "tokens_read": search.tokens_read,
        }
        return decoded(text if best.ended else CutAnswer(text), how)
