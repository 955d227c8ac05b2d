"""Rubrics: the built-in ones are whole, users' own are checked, and the planted suite has one for each task."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lifealign.core.errors import ConfigError
from lifealign.data.suites.planted_rules import TASKS
from lifealign.judging.rubrics import RUBRICS, Rubric, load_rubric, rubric_for

OWN = {
    "name": "tone",
    "title": "Tone",
    "question": "Is the tone right?",
    "criteria": [{"name": "warm", "text": "It is warm."}],
    "scale": {"low": 1, "high": 5, "anchors": {1: "cold", 5: "warm"}},
}


@pytest.mark.parametrize("name", RUBRICS)
def test_a_built_in_rubric_is_whole(name: str) -> None:
    rubric = load_rubric(name)
    assert rubric.name == name
    assert (rubric.scale.low, rubric.scale.high, sorted(rubric.scale.anchors)) == (1, 10, [1, 4, 7, 10])
    assert rubric.question.endswith("?")
    assert len(rubric.criteria) >= 3
    assert [step.name for step in rubric.steps] == (["request"] if name == "safe" else [])


def test_the_six_rubrics_lie_beside_the_module() -> None:
    import lifealign.judging.rubrics

    assert sorted(p.stem for p in Path(lifealign.judging.rubrics.__file__).parent.glob("*.yaml")) == list(RUBRICS)


def test_every_planted_task_has_a_rubric_and_all_six_are_used() -> None:
    found = [rubric_for(task) for task in TASKS]
    assert sorted(rubric.name for rubric in found if rubric) == list(RUBRICS)
    assert rubric_for("support-tone") is None


def write(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "tone.yaml"
    path.write_text(yaml.safe_dump({**OWN, **changes}), encoding="utf-8")
    return path


def test_a_rubric_of_ones_own(tmp_path: Path) -> None:
    rubric = load_rubric(write(tmp_path))
    assert isinstance(rubric, Rubric)
    assert rubric.sees == ("conversation", "reference")
    assert rubric.scale.lines() == ["1: cold", "5: warm"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "colour: unknown key"),
        ({"scale": {"low": 5, "high": 1, "anchors": {}}}, "low must be below high"),
        ({"scale": {"low": 1, "high": 5, "anchors": {1: "cold", 9: "hot"}}}, "anchors must include 1 and 5"),
        ({"criteria": []}, "criteria"),
        ({"criteria": [OWN["criteria"][0], OWN["criteria"][0]]}, "criteria must be unique"),  # type: ignore[index]
        ({"sees": ["answer"]}, "sees"),
        ({"steps": [{"name": "s", "question": "?", "options": [{"name": "a", "text": "b"}]}]}, "steps.0.options"),
        ({"question": " "}, "question"),
    ],
)
def test_a_mistake_in_a_rubric_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=r"tone\.yaml") as caught:
        load_rubric(write(tmp_path, **changes))
    assert message in str(caught.value)


def test_an_unknown_rubric_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'helpfull': unknown \(did you mean 'helpful'\?\)"):
        load_rubric("helpfull")
    with pytest.raises(ConfigError, match="no such file"):
        load_rubric("none.yaml")
