"""The real tests of the drift measures on memories that exist: does the branching factor fall, does shift foretell lost scores?

    lifealign run examples/demo.yaml --set memory=runs/drift --set 'strategy={name: sequential}' --set evaluate.unseen=true
    python benchmarks/drift.py runs/drift --out drift.json

For each memory: the branching factor over all prompts at every point and whether it strictly falls, its standard error, the nats that
each task spent, and Spearman's rank correlation, over the cells (task, later point), of the share of shifted tokens with the
margin that the task has lost since it was learnt.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from lifealign import DriftAsked, Memory, make_progress
from lifealign.judging.agreement import item_interval, rank_correlation

LOST = "margin"
"""Score whose loss is compared with the shift: it moves before accuracy does."""


def measured(memory: Memory, asked: DriftAsked) -> dict[str, Any]:
    """The figures of one memory."""
    found = memory.drift(asked, progress=make_progress()).results["measures"]
    branching = [cell["value"] for cell in found["branching"]["all"]["branching_factor"]]
    steps = [cell and cell["value"] for cell in found["ledger"]["all"]["kl_step"]]
    totals = [cell and cell["value"] for cell in found["ledger"]["all"]["kl_total"]]
    R, shift = memory.scores(LOST), found["shift"]
    shifts, losses = [], []
    for j in range(len(R)):
        for k in range(j + 1, len(R)):  # points count from the base, stages from the first task
            cell = shift["cells"]["shifted_share"][k + 1][j]
            if cell is not None:
                shifts.append(cell["value"])
                losses.append(R[j][j] - R[k][j])
    return {
        "memory": str(memory.path),
        "branching_factor": branching,
        "strictly_falls": all(a > b for a, b in itertools.pairwise(branching)),
        "standard_error_percent": [cell["value"] for cell in found["branching"]["all"]["branching_error"]],
        "kl_step": steps,
        "kl_total": totals,
        "cells": len(shifts),
        "spearman": item_interval(rank_correlation, shifts, losses)._asdict(),
    }


def main() -> None:
    """Measure the memories that are named, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("memories", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=8, help="prompts per task")
    parser.add_argument("--samples", type=int, default=8, help="sampled answers to each prompt")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    asked = DriftAsked(count=given.count, samples=given.samples, max_new_tokens=given.max_new_tokens)
    found = [measured(Memory.open(path), asked) for path in given.memories]
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
