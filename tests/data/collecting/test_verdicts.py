"""Words, signs and numbers as verdicts; what numbers mean is settled for a whole file."""

from __future__ import annotations

from typing import Any

import pytest

from lifealign.core.errors import ConfigError, DataError
from lifealign.data.collecting.collect import Options
from lifealign.data.collecting.verdicts import settle_scales, verdict_of
from lifealign.data.turns import UnusableRowError


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        *((word, "up") for word in ("up", "Thumbs Up", "thumbs_up", "👍", "👍🏿", "positive", "like", "TRUE", True)),
        *((word, "down") for word in ("down", "thumbs-down", "👎", "negative", "dislike", "false", False)),
        *((word, None) for word in ("none", "neutral", "n/a")),
    ],
)
def test_words(value: Any, verdict: str | None) -> None:
    assert verdict_of((("feedback", value),), {}) == verdict


@pytest.mark.parametrize("value", ["the tone is off", "3 of 5", {}, [1]])
def test_other_words_are_no_verdict_and_are_not_shown(value: Any) -> None:
    with pytest.raises(UnusableRowError, match=r"^`feedback` holds a (text|value) that is no verdict$"):
        verdict_of((("feedback", value),), {})


@pytest.mark.parametrize(
    ("name", "numbers", "verdicts"),
    [
        ("feedback", [1, 0], ["up", "down"]),
        ("score", [1.0], ["up"]),
        ("feedback", ["1", "-1"], ["up", "down"]),
        ("feedback", [1, 0, -1], ["up", None, "down"]),
        ("rating", [1, 2, 3, 4, 5], ["down", "down", None, "up", "up"]),
        ("rating", [1, 0], ["up", "down"]),
        ("score", [5, 1], ["up", "down"]),
    ],
)
def test_numbers(name: str, numbers: list[Any], verdicts: list[str | None]) -> None:
    votes = [((name, number),) for number in numbers]
    scales = settle_scales(votes, "f")
    assert [verdict_of(one, scales) for one in votes] == verdicts


@pytest.mark.parametrize(
    ("name", "numbers", "found"),
    [
        ("rating", [1], "the number 1"),  # of how many stars?
        ("stars", [1, 2, 3], "numbers from 1 to 3"),
        ("score", [0.1, 0.9], "numbers from 0.1 to 0.9"),
        ("score", [0, 5], "numbers from 0 to 5"),
        ("score", [7, 10], "numbers from 7 to 10"),
    ],
)
def test_numbers_without_a_clear_scale_are_asked_about(name: str, numbers: list[float], found: str) -> None:
    votes = [((name, number),) for number in numbers]
    with pytest.raises(
        DataError, match=f"^f: `{name}` holds {found}, and that does not tell good answers from bad ones"
    ):
        settle_scales(votes, "f")
    scales = settle_scales(votes, "f", good_from=4, bad_to=0.5)
    given = ["up" if number >= 4 else "down" if number <= 0.5 else None for number in numbers]
    assert [verdict_of(one, scales) for one in votes] == given


def test_scale_is_described() -> None:
    scale, numbers = settle_scales([(("rating", 5),), (("rating", 2),)], "f")["rating"]
    assert (
        scale.describe("rating", numbers)
        == "`rating` holds numbers from 2 to 5: 4 and more are up, 2 and less are down"
    )
    assert (
        settle_scales([(("x", 7),)], "f", good_from=6)["x"][0]
        .describe("x", [7])
        .endswith("6 and more are up, all others are down")
    )


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--bad-to 2 must be below --good-from, which is 2$"):
        Options(good_from=2, bad_to=2)
    with pytest.raises(ConfigError, match=r"^--bad-to 2 must be below --good-from, which is not given$"):
        Options(bad_to=2)


def test_everything_below_the_good_ones_is_bad_unless_a_bound_is_given() -> None:
    votes = [(("score", number),) for number in (9, 7, 1)]
    scales = settle_scales(votes, "f", good_from=8)
    assert [verdict_of(one, scales) for one in votes] == ["up", "down", "down"]


@pytest.mark.parametrize(
    ("up", "down", "verdict"), [(True, False, "up"), (False, True, "down"), (False, False, None), (0, 1, "down")]
)
def test_two_buttons(up: Any, down: Any, verdict: str | None) -> None:
    """Beside the other button, "false" only means that it was not pressed."""
    votes = (("thumbs_up", up), ("thumbs_down", down))
    assert verdict_of(votes, settle_scales([votes], "f")) == verdict


def test_one_button_that_is_false_is_a_verdict() -> None:
    assert verdict_of((("thumbs_up", False),), {}) == "down"
    assert verdict_of((("disliked", True),), {}) == "down"


def test_most_votes_decide() -> None:
    assert verdict_of((("thumb", "up"), ("thumb", "down"), ("thumb", "up")), {}) == "up"
    with pytest.raises(UnusableRowError, match=r"^as many verdicts up as down$"):
        verdict_of((("thumb", "up"), ("thumb", "down")), {})
