"""The public Python API as directives of mkdocstrings, by the module that a name lives in."""

from __future__ import annotations

import lifealign

TITLES = {
    "memory": "A memory",
    "data": "Rows, tasks and answers",
    "core": "Configuration and errors",
    "strategies": "Strategies",
    "training": "Strategies",
    "evaluation": "Scores and text metrics",
    "model": "Decoders",
    "studies": "Studies",
}
"""Folder of a name's home -> its heading on the page."""
INHERITS = ("Memory",)
"""Names whose methods come from a second class of the package."""


def api_page() -> str:
    """A directive for every name of `lifealign.__all__`, under headings, and the contract that strangers run."""
    found: dict[str, list[str]] = {title: [] for title in TITLES.values()}
    for name in sorted(lifealign.__all__):
        home = str(getattr(lifealign, name).__module__)
        more = "\n    options:\n      inherited_members: true" if name in INHERITS else ""
        found[TITLES[home.split(".")[1]]].append(f"::: {home}.{name}{more}")
    found["Tests of your own strategy"] = ["::: lifealign.testing"]
    parts = ((f"## {title}", *names) for title, names in found.items() if names)
    return "\n\n".join(line for part in parts for line in part)
