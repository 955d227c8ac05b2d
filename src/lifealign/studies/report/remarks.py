"""What a reader must know of a row's runs: upper bounds, programs and machines, and signs that did not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lifealign.studies.comparison import UPPER_BOUNDS
from lifealign.studies.program import machine_text
from lifealign.studies.report.cells import Json

COMMIT_DIGITS = 10
UNRECORDED = "earlier program (commit, code and machine not recorded)"


def remarks(rows: Mapping[str, Sequence[Json]]) -> dict[str, tuple[str, ...]]:
    """Remarks of each row that has any; where all runs have one program and machine, `made_by_note` gives it instead.

    Args:
        rows: name -> its finished runs.
    """
    origins = {name: _origins(runs) for name, runs in rows.items()}
    several = len({text for held in origins.values() for text in held}) > 1
    found = {}
    for name, runs in rows.items():
        strategies = dict.fromkeys(str(run.get("strategy")) for run in runs)
        told = [UPPER_BOUNDS[s] for s in strategies if s in UPPER_BOUNDS]
        told += [f"made by: {' and by '.join(origins[name])}"] if several and origins[name] else []
        told += _signs(runs)
        if told:
            found[name] = tuple(told)
    return found


def made_by_note(rows: Mapping[str, Sequence[Json]]) -> str:
    """The program and machine of all runs, as a sentence; empty if there are several, which `remarks` tells by row."""
    every = {text for runs in rows.values() for text in _origins(runs)}
    return f"All runs made by: {every.pop()}." if len(every) == 1 else ""


def _origins(runs: Sequence[Json]) -> list[str]:
    return list(dict.fromkeys(made_by(run) for run in runs))


def made_by(run: Json) -> str:
    """Program and machine of a run, for people."""
    program, machine = run.get("program"), run.get("machine")
    if not program and not machine:
        return UNRECORDED
    if not program:
        text = "earlier program (commit and code not recorded)"
    elif program.get("commit"):
        text = f"commit {program['commit'][:COMMIT_DIGITS]}{' with changes' if program.get('modified') else ''}"
    else:
        text = f"lifealign {program.get('version')}, code {program.get('code')}"
    return f"{text} on {machine_text(machine)}" if machine else f"{text}, machine not recorded"


def _signs(runs: Sequence[Json]) -> list[str]:
    """One remark for each sign that did not hold: in how many runs, and one of its values."""
    held: dict[str, list[Json]] = {}
    for run in runs:
        for key, sign in {s["key"]: s for s in run.get("signs") or ()}.items():
            held.setdefault(key, []).append(sign)
    return [
        f"not itself in {len(signs)} of {len(runs)} runs: {signs[0]['says']}: {signs[0]['value']:g} in task "
        f"{signs[0]['task']}, expected {_expected(signs[0])}"
        for signs in held.values()
    ]


def _expected(sign: Json) -> str:
    low, high = sign.get("low"), sign.get("high")
    ends = [f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else ""]
    return " and ".join(filter(None, ends))
