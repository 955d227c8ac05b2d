from __future__ import annotations

from pathlib import Path

import pytest

from lifealign.core import option_names
from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.core.option_names import RENAMED, current_keys, current_names, former_names
from lifealign.strategies import STRATEGIES
from lifealign.strategies.configure import read_config


@pytest.fixture(autouse=True)
def nothing_reported() -> None:
    option_names._report.cache_clear()


@pytest.mark.parametrize(("strategy", "old", "new"), [(s, o, n) for s, t in RENAMED.items() for o, n in t.items()])
def test_an_old_name_sets_the_option_of_the_new_one(strategy: str, old: str, new: str) -> None:
    fields = STRATEGIES[strategy].Config.model_fields
    assert new in fields and old not in fields
    extra = ("strategy.method=slerp",) if strategy == "merge" else ()
    value = {"protected_first": 0.9, "protected_last": 0.97}.get(new, 0.25)
    found = [read_config(None, (f"strategy.name={strategy}", *extra, f"strategy.{n}={value}")) for n in (old, new)]
    assert found[0] == found[1]
    options = found[0].strategy.model_extra or {}
    assert options[new] == value and old not in options


def test_an_old_name_is_reported_once(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("strategy: {name: ewc, lam: 3}")
    with pytest.warns(FutureWarning, match=r"run.yaml: strategy.lam is now called strategy.penalty_weight") as said:
        for _ in range(2):
            read_config(path)
    assert len([w for w in said if "penalty_weight" in str(w.message)]) == 1


def test_either_name_overrides_the_other_from_another_place(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("strategy: {name: ewc, lam: 3}")
    assert (read_config(path, ["strategy.penalty_weight=4"]).strategy.model_extra or {})["penalty_weight"] == 4
    path.write_text("strategy: {name: ewc, penalty_weight: 3}")
    assert (read_config(path, ["strategy.lam=4"]).strategy.model_extra or {})["penalty_weight"] == 4


def test_both_names_in_one_place_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("strategy: {name: si, c: 3, penalty_weight: 3}\nseed: -1")
    with pytest.raises(ConfigError) as error:
        read_config(path)
    assert "strategy: c is the old name of penalty_weight (strategy si); give only penalty_weight" in str(error.value)
    assert "seed" in str(error.value), "with the file's other mistakes"


def test_a_stored_configuration_gets_the_new_names() -> None:
    assert RunConfig.model_validate({"strategy": {"name": "ewc", "lam": 1}}).strategy.model_extra == {
        "penalty_weight": 1
    }


def test_keys_keep_their_order_and_names_come_back() -> None:
    settings = {"train.epochs": 2, "strategy.b": 1, 3: 4, "strategy.a": 0}
    assert list(current_keys("derpp", settings)) == [
        "train.epochs",
        "strategy.buffer_weight",
        3,
        "strategy.logps_weight",
    ]
    old = {"name": "derpp", "b": 1, "a": 0}
    assert former_names(current_names("derpp", old)) == old
    assert current_names("replay", {"lam": 1}) == {"lam": 1}
