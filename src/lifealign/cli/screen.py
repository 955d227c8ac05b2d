"""One task of a memory on one screen: what `lifealign show` prints without --all."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from lifealign.core.progress import duration

WIDTH = 80


def task_screen(record: Mapping[str, Any], rest: str) -> list[str]:
    """Lines of at most 80 columns.

    Args:
        record: of `Memory.show`.
        rest: the command that prints everything.
    """
    found = {
        "commit": record["directory"],
        "tasks": ", ".join(record["members"]) if len(record["members"]) > 1 else "",
        "tags": ", ".join(record["tags"]),
        "note": record["note"] or "",
        "recovers": _recovered(record.get("recovered") or {}),
        "learnt": _when(record),
        "rows": _rows(record.get("data") or {}),
        "method": _method(record["config"]),
        "last step": _last(record.get("last_step") or {}),
        "update": _update((record.get("diagnostics") or {}).get("summed") or {}),
    }
    lines = [line for name, text in found.items() if text for line in _field(name, text)]
    return [*lines, *_scores(record["scores"], record["score_rows"]), f"all that is stored: {rest}"]


def _field(name: str, text: str) -> list[str]:
    return textwrap.wrap(f"{name:<11}{text}", WIDTH, subsequent_indent=" " * 11, break_on_hyphens=False)


def _when(record: Mapping[str, Any]) -> str:
    seconds = record["meta"].get("seconds")
    took = "" if seconds is None else f", in {duration(seconds)}"
    return f"{record['created']}{took}, with seed {record['seed']}, after {record['parent'] or 'nothing'}"


def _recovered(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    share = f"{100 * found['restored']:.2f}% of {found['elements']:,} elements put back"
    return f"{found['task']} as it was at {found['from']}: {share}, by {found['prompts']['used']} prompts"


def _rows(data: Mapping[str, Any]) -> str:
    reports = [report for found in (data.get("reports") or {}).values() for report in found]
    read = "; ".join(f"{report['source']}: {report['kept']} of {report['read']} kept" for report in reports)
    replayed = f", {data['from_replay']} of them replayed" if data.get("from_replay") else ""
    trained = f"{data['rows']} trained on{replayed}" if data.get("rows") else ""
    return "; ".join(part for part in (read, trained) if part)


def _method(config: Mapping[str, Any]) -> str:
    train, strategy = config.get("train"), config.get("strategy")
    if not train or not strategy:
        return ""
    return (
        f"{strategy['name']}, {train['epochs']} epoch{'' if train['epochs'] == 1 else 's'} at {train['learning_rate']:g}, "
        f"{train['pairs_per_step']} rows a step"
    )


def _last(step: Mapping[str, Any]) -> str:
    shown = {"loss": "loss {:.3g}", "margin": "margin {:.3g}", "kl": "KL to the base model {:.2g} nats"}
    return ", ".join(text.format(step[key]) for key, text in shown.items() if step.get(key) is not None)


def _update(summed: Mapping[str, Any]) -> str:
    if summed.get("overlap") is None or summed.get("kept_ratio") is None:
        return ""
    return f"overlap with earlier tasks {summed['overlap']:.2f}, {100 * summed['kept_ratio']:.0f}% of it kept"


def _scores(scores: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    from lifealign.evaluation.learnt import main_scores
    from lifealign.evaluation.numbers import number, share

    measured = {task: found for task, found in scores.items() if found}
    if not measured:
        yield "scores     none stored of this point"
        return
    names, width = main_scores(measured), max(map(len, measured))
    for task, found in measured.items():
        texts = []
        for name in (name for name in names if name in found):
            count = rows[task][name]
            texts.append(f"{name} {number(found[name], name, count)}, {share(found[name], name, count) or count} rows")
        yield f"  {task:<{width}}  {'; '.join(texts)}"
