"""Colours that stand beside each other can be told apart with every kind of colour blindness; markers differ besides.

Computed from the pages' own styles: Machado et al. 2009 for what is seen, CIE76 for how far two colours are apart.
"""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from lifealign.report.charts import COLOURS, marker
from support.colours import MACHADO, contrast, distance
from support.paths import ROOT

TEMPLATES = ROOT / "src" / "lifealign" / "report" / "templates"
LEAST = 15.0
"""Smallest distance of two colours; a difference of 2.3 is just noticeable. The pages had 4.4."""


def variables(template: str, scheme: str) -> dict[str, str]:
    """CSS variables of a page in a colour scheme; those of style.j2 are in all pages."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(("style.j2", template)):
        light, dark = re.findall(r":root\{(--[^}]*)\}", (TEMPLATES / name).read_text(encoding="utf-8"))[:2]
        for block in (light, dark) if scheme == "dark" else (light,):
            found |= dict(re.findall(r"--([\w-]+):([^;]+)", block))
    return found


def hexadecimal(channels: list[float]) -> str:
    return "#" + "".join(f"{round(v):02x}" for v in channels)


def over(ink: str, share: float, paper: str) -> list[float]:
    """The channels "r g b" of a colour at an opacity over a paper such as #fff."""
    full = paper if len(paper) == 7 else "#" + "".join(2 * c for c in paper[1:])
    behind = [int(full[i : i + 2], 16) for i in (1, 3, 5)]
    return [share * a + (1 - share) * b for a, b in zip(map(float, ink.split()), behind, strict=True)]


def strongest(style: dict[str, str]) -> float:
    """Opacity of the strongest cell of a score matrix."""
    return 0.06 + float(style["deep"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_used_together_are_told_apart(scheme: str) -> None:
    style, answers = variables("style.j2", scheme), variables("answers.html.j2", scheme)
    lines = [style[f"c{i}"] for i in range(COLOURS)]
    cells = [hexadecimal(over(style[side], strongest(style), style["card"])) for side in ("up", "down")]
    pairs = [*combinations(lines, 2), tuple(cells), (answers["accent"], answers["warm"])]
    found = {(*pair, seen): distance(*pair, seen) for pair in pairs for seen in MACHADO}
    worst = min(found, key=lambda key: found[key])
    assert found[worst] >= LEAST, (worst, found[worst])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_in_coloured_cells_can_be_read(scheme: str) -> None:
    style = variables("style.j2", scheme)
    ink = [*over("0 0 0", 0.0, style["ink"]), 1.0]
    for side in ("up", "down"):
        assert contrast(ink, [*over(style[side], strongest(style), style["card"]), 1.0], ink) >= 4.5, side


def test_every_colour_has_a_marker_of_its_own() -> None:
    assert len({marker(place, (0, 0)) for place in range(COLOURS)}) == COLOURS
