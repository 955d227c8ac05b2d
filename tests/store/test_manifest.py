from __future__ import annotations

from lifealign.store.manifest import MIGRATIONS, rename_options


def test_records_of_version_1_get_the_current_names_of_options() -> None:
    old = {"name": "ewc", "lam": 3.0, "decay": 0.9}
    new = {"name": "ewc", "penalty_weight": 3.0, "decay": 0.9}
    assert MIGRATIONS[1] is rename_options
    store = rename_options("store", {"format_version": 1, "identity": {"strategy": old, "config": {"strategy": old}}})
    assert store == {"format_version": 2, "identity": {"strategy": new, "config": {"strategy": new}}}
    task = rename_options("task", {"format_version": 1, "config": {"strategy": old}, "name": "bread"})
    assert task == {"format_version": 2, "config": {"strategy": new}, "name": "bread"}
    assert rename_options("evaluation", {"format_version": 1, "record": {}}) == {"format_version": 2, "record": {}}
