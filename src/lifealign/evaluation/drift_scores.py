"""Columns of drift measures that are scores of held-out rows too, so that they are columns of R; no torch."""

from __future__ import annotations

from collections.abc import Mapping

from lifealign.evaluation.score import Score

DRIFT_SCORES: Mapping[str, Score] = {
    "branching_factor": Score(
        "Branching factor",
        "How many next tokens the model chooses among while it answers, from `lifealign drift`. Lower means less variety.",
        low=1,
    ),
    "shifted_share": Score(
        "Shifted tokens",
        "Tokens of the greedy answers that the model before any task ranked below its first three, from `lifealign drift`.",
        unit="%",
        better="neither",
        rate=True,
        low=0,
        high=1,
    ),
}
"""Name -> score; `lifealign drift` takes their values, one for each prompt."""
