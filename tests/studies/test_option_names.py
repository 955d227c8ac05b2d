from __future__ import annotations

from lifealign.studies.plan import make_plan
from support.paths import ROOT

BEFORE_THE_RENAMING = {
    "0bf3cb907bc75390",
    "30a272a5b2a79de0",
    "ff491615c91ddf70",
}
"""Ids of ewc, si and nlora with seed 0, as release 0.1 gave them when their options were called `lam` and `c`."""


def test_runs_keep_the_ids_that_they_had_under_the_old_names() -> None:
    plan = make_plan(ROOT / "examples" / "studies" / "main-table.yaml")
    runs = plan.reported_runs({label: {} for label in ("ewc", "si", "nlora")})
    assert {run.id for run in runs if run.seed == 0} == BEFORE_THE_RENAMING
    assert all("penalty_weight" in run.config["strategy"] for run in runs)
