"""Decoders: exact values of best of N, and the search that holds rules, against transformers' own beam search."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lifealign.data.tasks import Message
from lifealign.model.best_of import best_of_n, kl_bound, kl_divergence, win_rate, win_rate_bound
from lifealign.model.decoding import Decoder, Speaker, decode, make_decoder
from lifealign.model.encoding import Encoder
from lifealign.model.generate import generation_config, ids_of_prompts, padded, text_of
from support.tiny import make_model, make_tokenizer

PROMPTS = [(Message("user", text),) for text in ("how do I bake bread?", "stars", "and music, please: what is it?")]


def test_best_of_n_of_three_answers() -> None:
    """Beirami et al. as the specification recomputes it: p=(.5,.3,.2), r=(1,2,3), N=4."""
    p, r = [0.5, 0.3, 0.2], [1, 2, 3]
    q = best_of_n(p, r, 4)
    assert q == pytest.approx([0.0625, 0.3471, 0.5904], abs=1e-12)
    assert kl_divergence(q, p) == pytest.approx(0.559751, abs=1e-6)
    assert kl_bound(4) == pytest.approx(0.636294, abs=1e-6) and kl_divergence(q, p) <= kl_bound(4)
    assert win_rate_bound(4) == 0.8 and win_rate(q, p, r) <= 0.8


def test_best_of_n_shares_ties_by_probability_and_meets_its_bounds_in_the_limit() -> None:
    """2404.01730: a tie class has mass p_<=^N - p_<^N, split as p is; a continuous reward reaches both bounds."""
    q = best_of_n([0.2, 0.3, 0.4, 0.1], [1, 1, 5, 5], 3)
    assert q == pytest.approx([0.125 * 0.4, 0.125 * 0.6, 0.875 * 0.8, 0.875 * 0.2])
    assert best_of_n([0.2, 0.3, 0.5], [7, 7, 7], 9) == pytest.approx([0.2, 0.3, 0.5])  # one class: nothing to choose
    assert best_of_n([0.2, 0.8], [2, 1], 1) == pytest.approx([0.2, 0.8])  # N = 1 is the sampled distribution
    many = np.full(4000, 1 / 4000)
    fine = best_of_n(many, np.arange(4000), 4)
    assert kl_divergence(fine, many) == pytest.approx(kl_bound(4), abs=2e-3)
    assert win_rate(fine, many, np.arange(4000)) == pytest.approx(0.8, abs=1e-3)
    assert kl_divergence([1, 0], [0, 1]) == math.inf


# --- with a model ---


def speaker_of(kind: str = "llama", **options: Any) -> Speaker:
    """A random model with clear likes, so that no two beams tie, and answers may end."""
    model = make_model(kind, seed=3)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(12)
    return Speaker(model, Encoder(make_tokenizer(), "chat", 400), **{"max_new_tokens": 12, **options})


SPEAKER = speaker_of()


def answers(decoder: Decoder, speaker: Speaker = SPEAKER, **options: Any) -> list[str]:
    decoder.bind(None)
    return decode(decoder, speaker.model, speaker.encoder, PROMPTS, **{"max_new_tokens": 12, **options})


@pytest.mark.parametrize(("kind", "beams"), [("llama", 1), ("llama", 2), ("llama", 4), ("gpt2", 3), ("gemma3", 2)])
def test_without_strength_the_search_is_plain_beam_search_token_for_token(kind: str, beams: int) -> None:
    """DeAL's limit lambda = 0 (2402.06147), against transformers with `beams` beams and length_penalty 1."""
    speaker = speaker_of(kind)
    found = answers(make_decoder("hold", {"rules": ["json"], "strength": 0, "beams": beams}), speaker)
    eos = int(speaker.encoder.tokenizer.eos_token_id)
    for text, ids in zip(found, ids_of_prompts(speaker.encoder, PROMPTS, None, None), strict=True):
        options = generation_config(speaker.model, speaker.encoder.ends, eos, 12, 0.0, 1.0)
        options.update(num_beams=beams, length_penalty=1.0, early_stopping=False)
        output = speaker.model.generate(**padded(speaker.model, [ids], eos), generation_config=options)
        assert text == text_of(speaker.encoder, output[0][len(ids) :].tolist())
