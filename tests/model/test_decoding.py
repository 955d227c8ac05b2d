"""Decoders: exact values of best of N, and the search that holds rules, against transformers' own beam search."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lifealign.core.errors import ConfigError
from lifealign.data.prompts import CutAnswer, Decoded, decoding_of
from lifealign.data.tasks import Message
from lifealign.model.best_of_n import best_of_n, kl_bound, kl_divergence, win_rate, win_rate_bound
from lifealign.model.decoding import DECODERS, Decoder, Speaker, decode, make_decoder, register_decoder
from lifealign.model.encoding import Encoder
from lifealign.model.generate import generate, generation_config, ids_of_prompts, padded, text_of
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


def test_best_of_n_is_a_tilting_of_the_sampled_distribution() -> None:
    """2404.01730: pi_BoN(y) = pi(y) p_<=^(N-1) sum_{i=1..N} (p_< / p_<=)^(i-1), and for a continuous reward the optimum of
    reward log p_<= at beta = 1 / (N - 1)."""
    p, below, upto, n = np.array([0.5, 0.3, 0.2]), np.array([0, 0.5, 0.8]), np.array([0.5, 0.8, 1]), 4
    sums = sum((below / upto) ** i for i in range(n))
    assert best_of_n(p, [1, 2, 3], n) == pytest.approx(p * upto ** (n - 1) * sums)
    many = np.full(2000, 1 / 2000)
    tilted = many * np.exp(np.log(np.cumsum(many)) * (n - 1))
    assert np.abs(best_of_n(many, np.arange(2000), n) - tilted / tilted.sum()).sum() < 2e-3


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


def letters(text: str) -> float:
    """Share of characters that are plain letters, a graded rule that a random model does not keep by itself."""
    return sum(c.isascii() and c.isalpha() for c in text) / max(1, len(text))


def holding(strength: float, lookahead: int = 3, value: Any = letters) -> Decoder:
    hold: Any = make_decoder("hold", {"rules": ["json"], "strength": strength, "lookahead": lookahead, "beams": 2})
    hold.bind = lambda rule_of: None
    hold._values = [value]
    return hold  # type: ignore[no-any-return]


def test_a_rule_that_weighs_more_is_held_more() -> None:
    """The sweep of w of the DeAL section: on this toy satisfaction rises with the weight, and the price is log-prob."""
    found = [answers(holding(strength)) for strength in (0, 5, 100)]
    means = [float(np.mean([letters(text) for text in texts])) for texts in found]
    assert means == sorted(means) and means[-1] > means[0] + 0.1
    cost = [sum(text.decoding["log_prob"] for text in texts if isinstance(text, Decoded)) for texts in found]
    assert cost[0] > cost[-1]


def test_rules_are_judged_with_the_look_ahead_and_ends_by_what_they_are() -> None:
    """DeAL's trap: h must see y_1..t+l, not only the prefix; `lookahead` tokens follow each candidate but an ended one."""
    seen: list[str] = []

    def spy(text: str) -> float:
        seen.append(text)
        return 0.0

    lengths = []
    for lookahead in (0, 4):
        seen.clear()
        answers(holding(1.0, lookahead, spy))
        lengths.append(max(len(text) for text in seen[:4]))  # candidates of the first token of the first prompt
    assert lengths[1] > lengths[0]


def test_the_best_of_n_is_the_best_of_what_is_sampled() -> None:
    made = make_decoder("best-of", {"n": 5, "reward": "regex=[aeiou]", "keep": True})
    found = answers(made, seed=3)
    sampled = generate(SPEAKER.model, SPEAKER.encoder, [p for p in PROMPTS for _ in range(5)], max_new_tokens=12, temperature=1.0, seed=3)  # fmt: skip
    for i, text in enumerate(found):
        how = decoding_of(text)["decoding"]
        assert how["responses"] == sampled[5 * i : 5 * i + 5]
        assert how["chosen"] == max(how["rewards"]) and text == how["responses"][how["rewards"].index(how["chosen"])]
        assert (how["n"], how["win_rate_bound"], how["temperature"]) == (5, 5 / 6, 1.0)
        assert isinstance(text, CutAnswer) == isinstance(sampled[sampled.index(text)], CutAnswer)
    assert found == answers(made, seed=3)
    assert made.told(found)[0].endswith("at most 83.3% of comparisons won against one of them")


def test_without_a_reference_there_is_no_implicit_reward_and_one_answer_needs_none() -> None:
    with pytest.raises(ConfigError, match="this model has no reference; name a rule"):
        answers(make_decoder("best-of"))
    with pytest.raises(ConfigError, match="temperature=0 makes all 4 answers equal"):
        answers(make_decoder("best-of"), temperature=0)
    greedy = answers(make_decoder("best-of", {"n": 1, "reward": "json"}), temperature=0)
    assert greedy == generate(SPEAKER.model, SPEAKER.encoder, PROMPTS, max_new_tokens=12)
    with pytest.raises(ConfigError, match=r"2 weights for 1 rules; give one weight for each rule"):
        make_decoder("hold", {"rules": ["json"], "weights": [1, 2]})
    with pytest.raises(ConfigError, match=r"decoder hold: rules: missing"):
        make_decoder("hold")


STRANGER = """
from lifealign.core.frozen import Frozen
from lifealign.model.decoding import Decoder


class Shout(Decoder):
    class Config(Frozen):
        mark: str = "!"

    def answer(self, speaker, prompts):
        return [prompt[-1].content.upper() + self.config.mark for prompt in prompts]


class Half(Shout):
    def answer(self, speaker, prompts):
        return []
"""


def test_a_strangers_decoder_is_used_by_file_and_by_name(tmp_path: Any) -> None:
    file = tmp_path / "shout.py"
    file.write_text(STRANGER)
    made = make_decoder(f"{file}:Shout", {"mark": "?"})
    assert answers(made)[1] == "STARS?"
    register_decoder("shout", type(made))
    assert "shout" in DECODERS and answers(make_decoder("shout"))[1] == "STARS!"
    with pytest.raises(ConfigError, match="Half gave 0 answers to 3 prompts; give one each"):
        answers(make_decoder(f"{file}:Half"))
    with pytest.raises(ConfigError, match=r"expected a class derived from lifealign.model.decoding.Decoder"):
        register_decoder("other", dict)
    with pytest.raises(ConfigError, match="unknown decoder 'hodl'"):
        make_decoder("hodl")
