"""Selectors of rows: ISA's formulas, and selectors from outside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lifealign.core.errors import ConfigError, TrainingError
from lifealign.training.isa import information_change, isa_mode, isa_tail, mixture_likelihood
from lifealign.training.replay import ReplayBuffer, update_buffer
from lifealign.training.selectors import SELECTORS, Candidates, candidates_of, random_rows, selected
from support.rows import rows


def two_groups(count: int = 40, outliers: int = 3) -> np.ndarray:
    """Rows of two groups in 80 dimensions, and a few far from both, which come last."""
    draw = np.random.default_rng(0)
    near = draw.normal(size=(count, 80)) * 0.3 + np.where(np.arange(count)[:, None] % 2, 2.0, -2.0)
    return np.vstack([near, draw.normal(size=(outliers, 80)) * 6.0])


def given(features: np.ndarray) -> Candidates:
    return candidates_of(rows("bread", len(features)), "bread", 0, lambda rows: features[: len(rows)])


def test_the_change_of_equally_spaced_likelihoods_is_the_computed_one() -> None:
    """Five equally spaced points: 0, -.3210, -.8244, -1.5878, -2.7183, from -p log p with p = exp(l') of arXiv 2411.10545.

    So the largest Delta is that of the least likely row: sorting by it keeps the outliers.
    """
    found = information_change(np.linspace(-7.0, -3.0, 5))
    assert found.tolist() == pytest.approx([0, -0.3210, -0.8244, -1.5878, -2.7183], abs=1e-4)
    assert information_change(np.full(3, -2.0)).tolist() == [0, 0, 0]


def test_outliers_are_the_tail_and_never_the_mode() -> None:
    candidates = given(two_groups())
    assert set(isa_tail(candidates, 3)) == {40, 41, 42}
    assert not set(isa_mode(candidates, 40)) & {40, 41, 42}
    assert isa_tail(candidates, 43)[::-1] == isa_mode(candidates, 43)
    assert isa_tail(candidates, 3) == isa_tail(given(two_groups()), 3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_or_equal_rows_have_a_finite_likelihood(count: int) -> None:
    assert np.isfinite(mixture_likelihood(two_groups(count, 0))).all()
    assert np.isfinite(mixture_likelihood(np.ones((count, 4)))).all()


def test_random_rows_are_a_sample_of_its_own_for_each_seed() -> None:
    candidates = given(two_groups())
    found = random_rows(candidates, 10)
    assert len(set(found)) == 10 and found == random_rows(candidates, 10)
    assert found != random_rows(Candidates(candidates.rows, "bread", 1, candidates.features), 10)


def test_replay_takes_the_selector_s_rows_and_random_is_as_before() -> None:
    features = two_groups(39, 1)
    made = rows("bread", 40)
    place = {row.digest: i for i, row in enumerate(made)}

    def of(rows: Sequence[object]) -> np.ndarray:
        return features[[place[row.digest] for row in rows]]  # type: ignore[attr-defined]

    tail = update_buffer(ReplayBuffer(), made, "bread", share=0.025, select="isa_tail", features=of)
    assert [e.row for e in tail.exemplars] == [made[39]]
    mode = update_buffer(ReplayBuffer(), made, "bread", share=0.9, select="isa_mode", features=of)
    assert made[39] not in [e.row for e in mode.exemplars]
    plain = update_buffer(ReplayBuffer(), made, "bread", share=0.5)
    assert plain == update_buffer(ReplayBuffer(), made, "bread", share=0.5, select="random")
    with pytest.raises(TrainingError, match="asks for features, which are not known here; use random"):
        update_buffer(ReplayBuffer(), made, "bread", share=0.5, select="isa_mode")


def test_a_strangers_selector_works_and_a_bad_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "def shortest(candidates, count):\n"
        "    return sorted(range(len(candidates.rows)), key=lambda i: len(candidates.rows[i].chosen))[:count]\n\n\n"
        "def twice(candidates, count):\n    return [0] * count\n"
    )
    candidates = given(two_groups())
    found = selected(f"{file}:shortest", candidates, 5)
    lengths = [len(row.chosen) for row in candidates.rows]
    assert max(lengths[i] for i in found) <= min(n for i, n in enumerate(lengths) if i not in found)
    assert SELECTORS.is_outside(f"{file}:shortest")
    assert len(selected("random", candidates, 100)) == 43  # no more than there are
    with pytest.raises(TrainingError, match="returned 2 positions for 2 of 43 rows; return that many different"):
        selected(f"{file}:twice", candidates, 2)
    with pytest.raises(ConfigError, match="unknown selector 'isa'"):
        selected("isa", candidates, 2)
