"""Answers that are read while they are written: one batch of `generate`, with a length, a sampling and a reader for each.

A batch does not change an answer but for rounding: sampling draws from a generator of the answer's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from lifealign.model.adapters import causal_lm
from lifealign.model.encoding import Encoder
from lifealign.model.generate import Prefix, generation_config, padded

Finish = Literal["stop", "length"]


def _never() -> bool:
    return False


@dataclass
class Answer:
    """An answer that is being written.

    Attributes:
        prompt: token ids.
        read: called after each token with the answer itself; returns whether it goes on.
        max_new_tokens: most tokens to write. 1 <= max_new_tokens.
        temperature: 0 is greedy, otherwise sampling. 0 <= temperature.
        top_p: nucleus of the sampling. 0 < top_p <= 1.
        seed: of the sampling, a signed 64-bit integer.
        ids: tokens written so far, without the one that ended the answer.
        count: tokens written so far, with it.
        finish: why the answer ended: `stop` by an end of the model or of the reader, `length`; None while it is written.
    """

    prompt: Sequence[int]
    read: Callable[[Answer], bool]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    ids: list[int] = field(default_factory=list)
    count: int = 0
    finish: Finish | None = None

    def __post_init__(self) -> None:
        self._random = torch.Generator().manual_seed(self.seed)

    def choose(self, logits_V: Tensor) -> int:
        """Draw the next token."""
        probs_V = torch.softmax(logits_V.float() / self.temperature, -1)
        if self.top_p < 1:
            sorted_V, order_V = probs_V.sort(descending=True)
            outside_V = sorted_V.cumsum(-1) - sorted_V >= self.top_p  # the token that crosses the bound is inside
            probs_V = probs_V.masked_fill(torch.zeros_like(outside_V).scatter(0, order_V, outside_V), 0.0)
        return int(torch.multinomial(probs_V.cpu(), 1, generator=self._random))

    def take(self, token: int, ends: Sequence[int], stops: Sequence[int]) -> None:
        """Add a token: `ends` are not part of an answer, all `stops` end it."""
        self.count += 1
        if token not in ends:
            self.ids.append(token)
        if token in stops:
            self.finish = "stop"
        elif self.count >= self.max_new_tokens:
            self.finish = "length"
        if not self.read(self) and self.finish is None:
            self.finish = "stop"


@torch.no_grad()
def write(
    model: nn.Module,
    encoder: Encoder,
    answers: Sequence[Answer],
    positions: int,
    *,
    prefix: Prefix | None = None,
    pause: Callable[[], bool] = _never,
) -> None:
    """Write answers until each has ended, or until `pause`; paused ones go on in another batch, after what they have.

    Args:
        model: with or without adapter.
        encoder: of the model.
        answers: at least one, none ended yet; of any lengths and samplings.
        positions: most tokens of prompt and answer that the model takes.
        prefix: of the strategy; its virtual tokens come before the prompts.
        pause: asked after each token of the batch.
    """
    lm = causal_lm(model).eval()
    eos = int(encoder.tokenizer.eos_token_id)
    before = prefix([a.prompt for a in answers]) if prefix else [()] * len(answers)
    ids = [[*virtual, *a.prompt, *a.ids] for virtual, a in zip(before, answers, strict=True)]
    for answer, own in zip(answers, ids, strict=True):
        answer.max_new_tokens = min(answer.max_new_tokens, max(1, positions - len(own) + answer.count))
    longest = max(answer.max_new_tokens - answer.count for answer in answers)
    options = generation_config(lm, encoder.ends, eos, longest, 0.0, 1.0)
    lm.generate(
        **padded(lm, ids, eos),
        generation_config=options,
        logits_processor=LogitsProcessorList([_Choose(answers)]),
        stopping_criteria=StoppingCriteriaList([_Read(answers, encoder.ends, options.eos_token_id, pause)]),
    )


class _Choose(LogitsProcessor):  # type: ignore[misc]
    """Lets greedy choice take what sampling drew."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = answers

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for row, answer in enumerate(self.answers):
            if answer.temperature > 0 and answer.finish is None:
                token = answer.choose(scores[row])
                scores[row] = -torch.inf
                scores[row, token] = 0.0
        return scores


class _Read(StoppingCriteria):  # type: ignore[misc]
    """Hands each new token to its answer; the rows of answers that ended are done."""

    def __init__(
        self, answers: Sequence[Answer], ends: Sequence[int], stops: Sequence[int], pause: Callable[[], bool]
    ) -> None:
        self.answers, self.ends, self.stops, self.pause = answers, ends, stops, pause

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        for answer, token in zip(self.answers, input_ids[:, -1].tolist(), strict=True):
            if answer.finish is None:
                answer.take(token, self.ends, self.stops)
        done = [answer.finish is not None for answer in self.answers]
        if not all(done) and self.pause():
            done = [True] * len(done)
        return torch.tensor(done, device=input_ids.device)
