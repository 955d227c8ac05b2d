"""Best of N: sample N answers to a prompt and keep the one with the highest reward, with exact accounting.

With N samples the answers move from the sampled distribution by at most log N - (N - 1) / N nats, and win against it in at
most N / (N + 1) of comparisons, ties half; both are reached by a continuous reward (arXiv 2404.01730; Beirami et al., arXiv
2401.01879). Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from lifealign.core.errors import ConfigError
from lifealign.core.frozen import Frozen
from lifealign.data.prompts import decoded
from lifealign.data.rule_values import Value, find_value
from lifealign.data.suites.rules import Rule
from lifealign.model.best_of_n import kl_bound, win_rate_bound
from lifealign.model.decoding import Conversation, Decoder, Speaker

IMPLICIT = "implicit"
"""Reward of the memory itself: beta log(policy / reference)."""


class BestOf(Decoder):
    """The best of N sampled answers by a rule, a function of the answer, or the memory's own reward.

    The first of equal answers is kept. With the reward `implicit` an empty answer comes last.
    """

    class Config(Frozen):
        """Options of best of N."""

        n: int = Field(4, ge=1)
        """Answers to sample for each prompt. 1 <= n."""
        reward: str = IMPLICIT
        """`implicit`, a rule (see `--hold`), or path/to/file.py:function (answer -> a finite number)."""
        keep: bool = False
        """Keep all N answers with their rewards, in the form of rows with several scored answers."""

    _value: Value | None = None

    def bind(self, rule_of: Callable[[str], Rule] | None) -> None:
        """See `Decoder.bind`."""
        if self.config.reward != IMPLICIT:
            self._value = find_value(self.config.reward, rule_of, any_number=True)

    def check(self, options: Mapping[str, Any]) -> None:
        """See `Decoder.check`."""
        if options.get("temperature") == 0 and self.config.n > 1:
            raise ConfigError(
                f"temperature=0 makes all {self.config.n} answers equal; give a temperature above 0 (default: 1)"
            )

    def answer(self, speaker: Speaker, prompts: Sequence[Conversation]) -> list[str]:
        """See `Decoder.answer`."""
        from lifealign.model.generate import generate

        n = self.config.n
        temperature = 1.0 if speaker.temperature is None else speaker.temperature
        repeated = [prompt for prompt in prompts for _ in range(n)]
        texts = generate(
            speaker.model,
            speaker.encoder,
            repeated,
            max_new_tokens=speaker.max_new_tokens,
            temperature=temperature,
            top_p=speaker.top_p,
            seed=speaker.seed,
            batch_size=speaker.batch_size,
            progress=speaker.progress,
            title=speaker.title,
            prefix=speaker.prefix,
            reasons=[one for one in speaker.reasons for _ in range(n)] if speaker.reasons else None,
        )
        rewards = self._rewards(speaker, repeated, texts)
        sampled = {"temperature": temperature, "top_p": speaker.top_p, "seed": speaker.seed}
        return [
            self._best(texts[start : start + n], rewards[start : start + n], sampled)
            for start in range(0, len(texts), n)
        ]

    def told(self, answers: Sequence[str]) -> list[str]:
        """See `Decoder.told`."""
        n = self.config.n
        return [
            f"best of {n} by the reward {self.config.reward}: at most {kl_bound(n):.3f} nats of KL from the sampled answers, "
            f"and at most {100 * win_rate_bound(n):.1f}% of comparisons won against one of them"
        ]

    def _rewards(
        self, speaker: Speaker, prompts: Sequence[Conversation], texts: Sequence[str]
    ) -> Sequence[float | None]:
        if self._value is not None:
            return [self._value(text) for text in texts]
        if speaker.implicit is None:
            raise ConfigError("reward implicit: this model has no reference; name a rule as the reward")
        return speaker.implicit(prompts, texts)

    def _best(self, texts: Sequence[str], rewards: Sequence[float | None], sampled: Mapping[str, Any]) -> str:
        known = [-math.inf if reward is None else reward for reward in rewards]
        best = max(range(len(texts)), key=lambda i: known[i])
        n = self.config.n
        kept = {"responses": [str(text) for text in texts], "scores": list(rewards)} if self.config.keep else {}
        return decoded(
            texts[best],
            {
                "decoder": "best-of",
                "n": n,
                "reward": self.config.reward,
                "chosen": rewards[best],
                "rewards": list(rewards),
                "kl_bound": kl_bound(n),
                "win_rate_bound": win_rate_bound(n),
                **sampled,
                **kept,
            },
        )
