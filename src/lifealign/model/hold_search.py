"""The search of `hold`: beams of one prompt in one batch, with one cache of keys and values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lifealign.model.adapters import causal_lm
from lifealign.model.decoding import Speaker
from lifealign.model.generate import generation_config, text_of


@dataclass(frozen=True)
class Beam:
    """An answer so far.

    Attributes:
        ids: its tokens.
        log_prob: sum over them, nats.
        held: sum_i w_i R_i of its text, with the look-ahead while it is open.
        ended: whether the last token is an end.
    """

    ids: tuple[int, ...]
    log_prob: float
    held: float = 0.0
    ended: bool = False


class Search:
    """The search for the answer to one prompt.

    Args:
        speaker: the model and the options of the call.
        prompt: token ids.
        config: `hold.Hold.Config`.
        held: text -> sum_i w_i R_i.
        most: the largest value of `held`.

    Attributes:
        top_k: candidates of each beam: as configured, or as many as leave `beams` open ones after all ends.
        tokens_read: tokens that went through the model, over all beams and look-aheads.
    """

    def __init__(
        self, speaker: Speaker, prompt: Sequence[int], config: Any, held: Callable[[str], float], most: float
    ) -> None:
        self.speaker, self.config, self.held, self.most = speaker, config, held, most
        self.lm = causal_lm(speaker.model)
        eos = int(speaker.encoder.tokenizer.eos_token_id)
        ends = generation_config(self.lm, speaker.encoder.ends, eos, speaker.max_new_tokens, 0.0, 1.0).eos_token_id
        self.ends, self.eos = set(ends), eos
        self.top_k = max(self.config.top_k, self.config.beams + len(self.ends))
        self.device = next(self.lm.parameters()).device
        self.prompt, self.tokens_read = list(prompt), 0
        self.strength = float(config.strength)
        self.looks = self.config.strength > 0 and most > 0

    def text(self, ids: Sequence[int]) -> str:
        """The answer that tokens spell."""
        return text_of(self.speaker.encoder, list(ids))

    @torch.no_grad()
    def run(self) -> Beam:
        """The best answer that ended, or that is as long as it may be."""
        config = self.config
        beams, finished = [Beam((), 0.0)], list[Beam]()
        logits, cache = self._read([self.prompt], None)
        while True:
            parents, candidates, logits, cache = self._candidates(beams, logits, cache)
            last = len(candidates[0].ids) == self.speaker.max_new_tokens
            order = sorted(range(len(candidates)), key=lambda i: -self._search_score(candidates[i]))
            finished += [candidates[i] for i in order[: config.beams] if last or candidates[i].ended]
            finished = sorted(finished, key=lambda beam: -self._final(beam))[: config.beams]
            chosen = [i for i in order if not candidates[i].ended][: config.beams]
            if last or not chosen or self._settled(finished, candidates[chosen[0]]):
                return finished[0]
            beams = [candidates[i] for i in chosen]
            if self.looks:
                cache.reorder_cache(torch.tensor(chosen, device=self.device))
                logits = logits[chosen]
            else:
                cache.reorder_cache(torch.tensor([parents[i] for i in chosen], device=self.device))
                logits, cache = self._read([[beam.ids[-1]] for beam in beams], cache)

    def _search_score(self, beam: Beam) -> float:
        return beam.log_prob + self.strength * beam.held

    def _final(self, beam: Beam) -> float:
        """Score of a beam that ended: its log-prob per token, and what it holds."""
        return beam.log_prob / len(beam.ids) + self.strength * beam.held

    def _settled(self, finished: Sequence[Beam], open_beam: Beam) -> bool:
        """Whether no open beam can win any more: even with every rule held, by the length that it has."""
        if len(finished) < self.config.beams:
            return False
        best = open_beam.log_prob / len(open_beam.ids) + self.strength * self.most
        return best <= self._final(finished[-1])

    def _candidates(
        self, beams: Sequence[Beam], logits: Tensor, cache: Any
    ) -> tuple[list[int], list[Beam], Tensor, Any]:
        """The likeliest continuations of all beams, judged; with the cache and logits after them if they were read."""
        sums = torch.tensor([beam.log_prob for beam in beams], dtype=torch.float32)
        log_probs = logits.float().log_softmax(-1).cpu() + sums[:, None]
        values, tokens = log_probs.topk(min(self.top_k, log_probs.shape[-1]), dim=-1)
        parents = [b for b in range(len(beams)) for _ in range(tokens.shape[1])]
        made = [
            Beam((*beams[b].ids, int(token)), float(value), ended=int(token) in self.ends)
            for b, token, value in zip(parents, tokens.flatten(), values.flatten(), strict=True)
        ]
        if not self.looks:
            return parents, made, logits, cache
        cache.reorder_cache(torch.tensor(parents, device=self.device))
        logits, cache = self._read([[beam.ids[-1]] for beam in made], cache)
        ahead = self._look_ahead(made, logits, copy.deepcopy(cache))
        held = [self.held(self.text([*beam.ids, *more])) for beam, more in zip(made, ahead, strict=True)]
        judged = [Beam(b.ids, b.log_prob, h, b.ended) for b, h in zip(made, held, strict=True)]
        return parents, judged, logits, cache

    def _look_ahead(self, beams: Sequence[Beam], logits: Tensor, cache: Any) -> list[list[int]]:
        """Greedy tokens after each beam, up to an end; none after a beam that ended."""
        ahead: list[list[int]] = [[] for _ in beams]
        done = [beam.ended for beam in beams]
        room = self.speaker.max_new_tokens - len(beams[0].ids)
        for step in range(steps := min(self.config.lookahead, room)):
            following = logits.argmax(-1).tolist()
            for i, token in enumerate(following):
                if not done[i]:
                    ahead[i].append(token)
                    done[i] = token in self.ends
            if all(done) or step == steps - 1:
                break
            logits, cache = self._read([[token] for token in following], cache)
        return ahead

    def _read(self, ids: Sequence[Sequence[int]], cache: Any) -> tuple[Tensor, Any]:
        """Logits [B, V] after the tokens, and the cache with them."""
        inputs = torch.tensor([list(row) for row in ids], device=self.device)
        past = 0 if cache is None else cache.get_seq_length()
        mask = torch.ones(len(ids), past + inputs.shape[1], dtype=torch.long, device=self.device)
        output = self.lm(input_ids=inputs, attention_mask=mask, past_key_values=cache, use_cache=True)
        self.tokens_read += inputs.numel()
        return output.logits[:, -1], output.past_key_values
