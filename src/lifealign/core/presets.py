"""Presets: settings that a new memory gets where its configuration leaves them open. Imports no torch.

A preset is a choice for users. A memory keeps every setting in full and the preset's name for the record, so a later
version may choose otherwise without changing a memory that exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lifealign.core.config_files import merge

DEFAULT = "lifelong"
"""Preset of a configuration that names none."""

OBJECTIVE = ("reference", "rpo_alpha")
"""Options of a preset that go with its own loss; with another, the loss's defaults hold."""


@dataclass(frozen=True)
class Preset:
    """Settings by section.

    Attributes:
        sections: section -> key -> value; they hold for every strategy.
        options: strategy -> option -> value.
    """

    sections: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Mapping[str, Any]]

    def below(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """The preset's settings for a configuration, whose own settings are kept."""
        chosen = tree.get("strategy", {})
        chosen = chosen if isinstance(chosen, Mapping) else {}
        name = chosen.get("name", "lifealign")
        options = dict(self.options.get(name, {})) if isinstance(name, str) else {}
        sft = tree.get("sft", {})
        if isinstance(sft, Mapping) and sft.get("epochs") == 0:
            options.pop("reference", None)  # the policy after a stage that is left out
        if "loss" in chosen:
            options = {key: value for key, value in options.items() if key not in OBJECTIVE}
        if "sleep_epochs" in options and chosen.get("replay_share") == 0:
            del options["sleep_epochs"]  # nothing to sleep on
        elif "sleep_epochs" in options and chosen.get("sleep_epochs") == 0:
            options["replay_share"] = 0  # nothing to keep rows for
        return {**{section: dict(values) for section, values in self.sections.items()}, "strategy": options}


PRESETS: Mapping[str, Preset] = {
    "lifelong": Preset(
        {
            "lora": {"target_modules": "all-linear"},
            "sft": {"epochs": 2, "learning_rate": 1e-3},
            "train": {"epochs": 2, "learning_rate": 1e-3, "pairs_per_step": 4},
        },
        {
            "lifealign": {
                "route": True,
                "begin": "initial",
                "rehearse": False,
                "sleep_epochs": 5,
                "reference": "task_start",
                "rpo_alpha": 1.0,
            }
        },
    ),
    "paper": Preset({}, {}),
}
"""`lifelong`: see docs/explanation/presets.md. `paper`: the method of arXiv 2509.17183, and the bare defaults."""


def with_preset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with its preset's settings where it leaves them open; an unknown preset is left to be reported."""
    name = tree.get("preset", DEFAULT)
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        return dict(tree)
    return {**merge(preset.below(tree), tree), "preset": name}
