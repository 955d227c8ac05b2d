"""Drift measures by hand: every number here is worked out on paper, or is a limit that the measure must meet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifealign.core.errors import ConfigError
from lifealign.data.tasks import Message, Row
from lifealign.evaluation.drift import MEASURES, Measure, Reading, Seen, register_measure
from lifealign.evaluation.measures.branching import branching, factor, nucleus
from lifealign.evaluation.measures.ledger import ledger
from lifealign.evaluation.measures.principles import (
    arbitrariness,
    consensus,
    discrepancy,
    priorities,
    read_pair,
    summary,
)
from lifealign.evaluation.measures.shift import divergence, ranks, shift
from lifealign.evaluation.principles_file import DEFAULT, TEXT_MEASURES, Principle, Principles, read_principles


def log(*rows: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(rows, dtype=np.float32))


def seen(now: Any, base: Any = None, previous: Any = None, answers: Sequence[Sequence[int]] | None = None) -> Seen:
    """One prompt with one answer, the most likely one unless it is given."""
    found = {"now": [now], "base": [now if base is None else base], "previous": [now if previous is None else previous]}
    return Seen("?", answers or [now.argmax(1).tolist()], found)


# --- branching factor (arXiv 2506.17871) ------------------------------------------------------------------------------


def test_the_nucleus_of_the_worked_example() -> None:
    """(.5, .3, .15, .05) at top-p .9 keeps 3 tokens and branches 2.70004 ways; untruncated 3.13340 (computed apart)."""
    found = nucleus(log([0.5, 0.3, 0.15, 0.05]), 0.9)
    assert found.kept[0] == 3 and math.exp(found.entropy[0]) == pytest.approx(2.70004, abs=5e-6)
    assert math.exp(nucleus(log([0.5, 0.3, 0.15, 0.05]), 1.0).entropy[0]) == pytest.approx(3.13340, abs=5e-6)
    assert found.mass[0] == pytest.approx(math.log(0.95), abs=1e-6)


@pytest.mark.parametrize("vocabulary", [10, 300, 2000])
def test_a_uniform_distribution_branches_as_many_ways_as_are_kept(vocabulary: int) -> None:
    """The limit of a uniform distribution: its factor is the number of tokens kept, 0.9 of them."""
    found = nucleus(log([1 / vocabulary] * vocabulary))
    assert math.exp(found.entropy[0]) == pytest.approx(found.kept[0], rel=1e-5)
    assert found.kept[0] == pytest.approx(0.9 * vocabulary, abs=1)


def test_a_wide_nucleus_is_sorted_whole_and_others_are_not_disturbed() -> None:
    """Rows whose nucleus lies within the first tokens, beside one whose does not: as if each were alone."""
    rng = np.random.default_rng(0)
    narrow, wide = rng.dirichlet(np.full(900, 0.01)), rng.dirichlet(np.full(900, 50.0))
    both = nucleus(log(narrow, wide, narrow))
    for k, one in enumerate((narrow, wide, narrow)):
        assert [part[k] for part in both] == [part[0] for part in nucleus(log(one))]
    assert both.kept[1] > 512 > both.kept[0]


@pytest.mark.parametrize("length", [3, 80])
def test_a_one_hot_distribution_branches_exactly_one_way(length: int) -> None:
    """Greedy decoding, the limit of temperature 0: exactly 1, in the entropy form and in the likelihood form."""
    one_hot = log(*[[0.0, 1.0, 0.0]] * length)
    given = Seen("?", [[1] * length] * 4, {"now": [one_hot] * 4})
    assert branching(given).values == {"branching_factor": 1.0, "branching_error": 0.0}


def test_positions_with_few_samples_are_dropped() -> None:
    """Five samples, of which three are longer: the second position has 3 samples and does not count (the paper's recipe)."""
    short, long = np.asarray([0.0]), np.asarray([0.0, 5.0])
    assert factor([short, short, long, long, long])[0] == 1.0
    assert factor([short, long, long, long, long])[0] == pytest.approx(math.exp(2.5))


def test_long_answers_take_the_likelihood_form() -> None:
    """Above 50 tokens the factor is exp of the mean -(1/T) log p~; its standard error is that of the samples' means."""
    entropies = [np.full(60, 1.0)] * 2
    assert factor(entropies, [1.0, 2.0]) == (pytest.approx(math.exp(1.5)), pytest.approx(math.exp(1.5) * 0.5))
    assert factor([np.full(40, 1.0)] * 4, [9.0] * 4)[0] == pytest.approx(math.exp(1.0))


# --- token shift (arXiv 2312.01552) -----------------------------------------------------------------------------------


def test_a_model_against_itself_shifts_nothing() -> None:
    """The limit of equal models: exactly 100, 0 and 0 percent, and no divergence."""
    now = log(*np.random.default_rng(1).dirichlet(np.ones(50), size=20))
    assert shift(seen(now)).values == {
        "shifted_share": 0.0,
        "marginal_share": 0.0,
        "unshifted_share": 1.0,
        "shifted_since_previous": 0.0,
        "shift_kl": 0.0,
    }


def test_ranks_and_shares_by_hand() -> None:
    """Tokens that the earlier model ranks 1, 3, 4 and 5: unshifted, marginal, shifted, shifted; the last two are listed."""
    now = log(*[[0.9, 0.025, 0.025, 0.025, 0.025]] * 4)
    base = log(
        [0.6, 0.1, 0.1, 0.1, 0.1], [0.2, 0.3, 0.4, 0.05, 0.05], [0.1, 0.3, 0.3, 0.25, 0.05], [0.01, 0.3, 0.3, 0.3, 0.09]
    )
    assert ranks(now, base).tolist() == [1, 3, 4, 5]
    found = shift(seen(now, base))
    assert [found.values[f"{k}_share"] for k in ("unshifted", "marginal", "shifted")] == [0.25, 0.25, 0.5]
    assert found.tallies["shifted tokens"] == {"0": 2} and found.curves["shifted_share"] == [
        (0, 1),
        (0, 1),
        (1, 1),
        (1, 1),
    ]


def test_divergence_by_hand_and_without_probability() -> None:
    """KL((.5, .5) || (.25, .75)) = log(4/3)/2 nats; a token that cannot be written adds nothing."""
    assert divergence(log([0.5, 0.5, 0.0]), log([0.25, 0.75, 0.0]))[0] == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)
    assert divergence(log([1.0, 0.0]), log([0.5, 0.5]))[0] == pytest.approx(math.log(2))


# --- KL ledger (arXiv 2404.01730) -------------------------------------------------------------------------------------


def test_a_ledger_by_hand() -> None:
    """Two tokens, each log(4/3)/2 nats from the base and nothing from the task before."""
    now, base = log(*[[0.5, 0.5]] * 2), log(*[[0.25, 0.75]] * 2)
    found = ledger(seen(now, base)).values
    assert found["kl_total"] == pytest.approx(math.log(4 / 3), rel=1e-6) and found["kl_step"] == 0.0
    assert found["kl_per_token"] == pytest.approx(found["kl_total"] / 2)


def test_the_estimate_of_sampled_answers_is_the_divergence_of_the_answers() -> None:
    """Of a toy model with two steps, the mean over sampled prefixes of the summed token divergences is KL of whole answers."""
    rng = np.random.default_rng(2)
    first, base_first = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3))
    second, base_second = rng.dirichlet(np.ones(3), size=3), rng.dirichlet(np.ones(3), size=3)
    joint, base_joint = first[:, None] * second, base_first[:, None] * base_second
    exact = float((joint * np.log(joint / base_joint)).sum())
    mean = sum(
        first[y] * ledger(seen(log(first, second[y]), log(base_first, base_second[y]))).values["kl_total"]
        for y in range(3)
    )
    assert mean == pytest.approx(exact, rel=1e-5)


# --- principles (arXiv 2502.10441) ------------------------------------------------------------------------------------


def test_discrepancy_of_orders() -> None:
    """(3,2,1,0) against (3,1,2,0): one of six pairs is turned, so (1 - 4/6) / 2 = 1/6; 0 with itself, 1 with the reverse."""
    a = np.asarray([3.0, 2.0, 1.0, 0.0])
    assert discrepancy(a, np.asarray([3.0, 1.0, 2.0, 0.0])) == pytest.approx(1 / 6)
    assert discrepancy(a, a) == 0.0 and discrepancy(a, -a) == 1.0
    assert math.isnan(discrepancy(a, np.zeros(4)))


def pairs(count: int = 400, seed: int = 0) -> tuple[Any, Any, Any]:
    """Verdicts of four principles on pairs, and of a model that follows Bradley-Terry with known strengths."""
    rng = np.random.default_rng(seed)
    w = np.asarray([1.5, 0.5, -0.5, -1.5])
    sides = np.zeros((count, 4))
    own = np.zeros(count)
    for n in range(count):
        i, j = rng.choice(4, 2, replace=False)
        sides[n, i], sides[n, j] = (1, -1) if rng.random() < 0.5 else (-1, 1)
        own[n] = sides[n, i] if rng.random() < 1 / (1 + np.exp(w[j] - w[i])) else sides[n, j]
    return own, sides, w


def test_strengths_recover_a_known_order() -> None:
    """Simulated supremacies with a known order of strengths: the same order comes out (tau-b 1, discrepancy 0)."""
    own, sides, w = pairs()
    assert discrepancy(priorities(own, sides), w) == 0.0


def test_relabelling_changes_nothing() -> None:
    """Which answer is called the first one, and the order of the principles, have no meaning."""
    own, sides, _ = pairs(80)
    w = priorities(own, sides)
    assert priorities(-own, -sides) == pytest.approx(w)
    order = [2, 0, 3, 1]
    assert priorities(own, sides[:, order]) == pytest.approx(w[order])


def test_consensus_conflict_and_arbitrariness_by_hand() -> None:
    """Two principles on five pairs: agreed, agreed by one alone, agreed, opposed, undecided; the model fails one of three."""
    sides = np.asarray([[1, 1], [0, -1], [-1, -1], [1, -1], [0, 0]], dtype=float)
    assert consensus(sides)[:4].tolist() == [1, -1, -1, 0] and math.isnan(consensus(sides)[4])
    assert arbitrariness(np.asarray([1.0, 1, -1, 1, 1]), sides) == pytest.approx(1 / 3)
    assert math.isnan(arbitrariness(np.ones(1), sides[3:4]))


def test_a_model_that_learns_a_principle_raises_its_rank() -> None:
    """A model that goes with the last principle wherever it decides gives it the highest priority; flipped labels are arbitrary."""
    own, sides, _ = pairs(300)
    taught = np.where(sides[:, 3] != 0, sides[:, 3], own)
    assert priorities(own, sides).argmin() == 3 and priorities(taught, sides).argmax() == 3
    agreed = np.ones((200, 2))
    flipped = np.where(np.random.default_rng(0).random(200) < 0.4, -1.0, 1.0)  # trained on 40 % flipped labels
    assert arbitrariness(flipped, agreed) > 0.3 > arbitrariness(np.ones(200), agreed) == 0.0


def rows(own: Any, sides: Any) -> list[dict[str, float]]:
    return [
        {"preference": float(a), **{f"side:p{i}": float(s) for i, s in enumerate(row)}}
        for a, row in zip(own, sides, strict=True)
    ]


def test_the_summary_of_a_point() -> None:
    """Counts of the kinds of pairs, priorities with intervals around them, and no discrepancy from an equal model."""
    own, sides, _ = pairs(60)
    found = summary(
        {"now": {"a": rows(own, sides)}, "base": {"a": rows(own, sides)}, "previous": {"a": rows(-own, sides)}}, 40
    )
    assert found["pairs"] == {"consensus": 0, "conflict": 60, "indifference": 0}
    assert all(one["low"] <= one["value"] <= one["high"] for one in found["priorities"].values())
    assert found["discrepancy_base"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["discrepancy_previous"]["value"] == 1.0


def test_the_preference_is_the_mean_log_prob_per_token() -> None:
    """Chosen: tokens of .5 and .5; rejected: one of .25. The verdicts are those of the principles."""
    row = Row((Message("user", "?"),), "Thank you", "No, no, no, no, no, no", "r")
    now = [log([0.5, 0.5], [0.5, 0.5]), log([0.25, 0.75])]
    given = Seen("?", [[0, 1], [0]], {"now": now}, row=row, settings={"principles": DEFAULT})
    found = read_pair(given).values
    assert (
        found["preference"] == pytest.approx(math.log(2)) and found["side:polite"] == 1 and found["side:concise"] == 1
    )
    assert found["side:listed"] == 0


# --- principles in a file ---------------------------------------------------------------------------------------------


def test_principles_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("principles:\n  short: {measure: words, better: lower, margin: 2}\n  json: {rule: data-json}\n")
    found = read_principles(str(file)).principles
    assert [found["short"].prefers(a, "a b c") for a in ("a", "a b", "a b c d e f")] == [0, 0, -1]
    assert found["short"].prefers("a b c", "a b c d e f") == 1 and found["json"].prefers('{"a": 1}', "a") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("principles: {a: {measure: words}}", "expected two or more principles, got 1"),
        (
            "principles: {a: {measure: wrds}, b: {rule: data-json}}",
            "unknown measure .did you mean 'words'.*allowed: words",
        ),
        ("principles: {a: {measure: words, rule: myths}, b: {rule: myths}}", "give exactly one of rule and measure"),
        ("principles: {a: {rule: nothing}, b: {rule: myths}}", "unknown checker 'nothing'"),
        ("principles: {A b: {rule: myths}, b: {rule: myths}}", "the name 'A b' cannot be used"),
        ("principle: {}", "unknown key .did you mean 'principles'"),
    ],
)
def test_mistakes_in_a_file_of_principles(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"{file}.*{message}"):
        read_principles(str(file))


def test_text_measures_count() -> None:
    text = "Sorry! It may rain?\n1. Take a coat\n- and a hat"
    found = {name: measure(text) for name, measure in TEXT_MEASURES.items()}
    assert found == {
        "words": 12.0, "hedges": 1.0, "polite_words": 1.0, "list_items": 2.0, "questions": 1.0, "exclamations": 1.0, "refusal": 0.0,
    }  # fmt: skip


def test_principles_are_the_same_wherever_their_file_lies() -> None:
    own = Principles(principles={"a": Principle(measure="words"), "b": Principle(rule="myths")})
    assert own.sha256 == Principles.model_validate(own.model_dump()).sha256 != DEFAULT.sha256


# --- measures from outside --------------------------------------------------------------------------------------------


def test_a_strangers_measure_by_call_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Gone after the test: a study names every registered part to its processes.
    monkeypatch.setattr(MEASURES, "_entries", dict(MEASURES._entries))

    @register_measure("first_token", against=(), label="First token")
    def first(given: Seen) -> Mapping[str, float]:
        """How sure the first token is."""
        return {"sure": float(np.exp(given.log_probs["now"][0][0].max()))}

    own = MEASURES["first_token"]
    assert (own.label, own.meaning, own.material) == ("First token", "How sure the first token is.", "samples")
    assert own.function(seen(log([0.25, 0.75]))) == {"sure": pytest.approx(0.75)}
    file = tmp_path / "mine.py"
    file.write_text('def length(seen):\n    """Tokens of an answer."""\n    return {"tokens": len(seen.answers[0])}\n')
    assert MEASURES[f"{file}:length"].function(seen(log([0.5, 0.5]))) == {"tokens": 1}
    with pytest.raises(ConfigError, match="material='all' is unknown; allowed: nucleus, samples, greedy, pairs"):
        register_measure("other", first, material="all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"unknown drift measure 'branchin' .did you mean 'branching'"):
        MEASURES.find("branchin")


def test_built_in_measures_name_all_of_their_columns() -> None:
    now = log([0.5, 0.3, 0.2], [0.2, 0.3, 0.5])
    for name in ("branching", "shift", "ledger"):
        measure = MEASURES[name]
        assert isinstance(measure, Measure) and measure.meaning and measure.worry
        found = measure.function(Seen("?", [[0, 2]] * 2, {p: [now] * 2 for p in ("now", "base", "previous")}))
        assert isinstance(found, Reading) and set(found.values) == set(measure.columns)
