"""Cards, written from what a memory keeps: of the memory, and of an export with how to load it; no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from lifealign.core.version import __version__
from lifealign.evaluation import catalog
from lifealign.evaluation.numbers import limits_text, number
from lifealign.evaluation.results import ScoreTable, read_scores, run_results
from lifealign.store.documents import read_data
from lifealign.store.heldout import heldout
from lifealign.store.layout import ROOT
from lifealign.store.manifest import NOTE, TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import retired, words

CARD = "README.md"
CARD_PAGE = "card.html"
NONE = "none"
"""In place of an interval: too few rows, or values that are all the same."""
STYLE = (
    "body{max-width:48rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;color:#1c2330;background:#fff}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}td,th{border-bottom:1px solid #c5cad3;padding:.3rem .7rem;text-align:left}"
    "code,pre{font-size:.9em;overflow-wrap:anywhere}blockquote{border-left:3px solid #c5cad3;margin-left:0;padding-left:1rem}"
    "@media(prefers-color-scheme:dark){body{color:#e6e9ef;background:#14181f}td,th{border-color:#3b4351}}"
)
"""Of a card's page."""
MEASURE = (
    "`lifealign evaluate MEMORY --one-adapter` scores it on the held-out rows; export it again to see the scores here."
)
"""To a reader of the card of an adapter that is not the memory's own policy."""
LIBRARY = {"peft": "peft", "merged": "transformers", "vllm": "transformers"}
"""Format of an export -> the library that hubs name for it."""
LOAD = {
    "peft": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{source}"), ".")
tokenizer = AutoTokenizer.from_pretrained(".")
```""",
    "merged": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
```""",
    "vllm": "`serve.sh` has the command; it was not run here.\n\n    sh serve.sh",
    "gguf": "    llama-server -m model.gguf\n    ollama create NAME -f Modelfile",
    "gguf-lora": "    llama-server -m BASE.gguf --lora adapter.gguf\n\nBASE.gguf is the base model in GGUF, unquantised for the same answers.",
}


def card(
    store: MemoryReader,
    until: TaskManifest,
    report: Mapping[str, Any],
    source: str,
    licence: str | None,
    one_adapter: bool = False,
) -> str:
    """The text of an export's card, in Markdown.

    Args:
        store: the memory.
        until: the point of its life that is exported.
        report: of the export; see `exporting.REPORT`.
        source: path or id of the base model.
        licence: of the base model; None: not known.
        one_adapter: the scores to show are those of the one adapter of a memory that routes its prompts.
    """
    config = store.config
    form, base = report["format"], config["model"]["name"]
    head = {
        **({"base_model": base} if "/" in base and not Path(base).exists() else {}),
        **({"library_name": LIBRARY[form]} if form in LIBRARY else {}),
        **({"license": licence} if licence else {}),
        "pipeline_tag": "text-generation",
        "tags": ["lifealign", *(["gguf"] if form.startswith("gguf") else [])],
    }
    parts = [
        "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items()) + "---",
        _title(store, until),
        f"Made by lifealign {__version__} from the memory `{store.path.name}` at `{until.directory}` ({until.created}), format "
        f"`{form}`. Licence of the base model: {licence or 'not known; see where the base model came from'}.",
        "## Load it\n\n" + LOAD[form].format(source=source),
        "Use the chat template: the model was trained and measured with it."
        if store.identity["template"] == "chat"
        else "The model was trained without a chat template, on turns that begin with `User:` and `Assistant:`.",
        *_life(store, until, one_adapter),
        "## How the export compares with the memory\n\n" + "\n".join(f"- {note}" for note in report["notes"]),
    ]
    return "\n\n".join(parts) + "\n"


def memory_card(store: MemoryReader, until: TaskManifest) -> str:
    """One page about a memory, in Markdown: its tasks, scores, gates and how it was trained.

    Args:
        store: the memory.
        until: the point of its life that the page is about.
    """
    tags = [name for name, tag in store.tags().items() if tag.directory == until.directory]
    named = f", tagged {', '.join(f'`{tag}`' for tag in tags)}" if tags else ""
    note = until.meta.get(NOTE)
    parts = [
        _title(store, until),
        f"The memory `{store.path.name}` at `{until.directory}` ({until.created}){named}, written by lifealign {__version__}.",
        *(["\n".join(f"> {line}" for line in str(note).splitlines())] if note else []),
        *_life(store, until, False),
    ]
    return "\n\n".join(parts) + "\n"


def to_html(text: str) -> str:
    """A card as a page of its own: no script, nothing loaded, and HTML in names or notes shown as text."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    title = next((line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")), "lifealign")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n'


def _title(store: MemoryReader, until: TaskManifest) -> str:
    count = len(_names(store, until))
    return f"# {Path(store.config['model']['name']).name}, aligned on {count} task{'s' * (count != 1)}"


def _names(store: MemoryReader, until: TaskManifest) -> list[str]:
    """The tasks that a point knows, without those that were superseded or withdrawn by then."""
    gone = retired(store, until)
    learnt = [m for m in store.lineage()[1:] if m.index <= until.index]
    return [name for m in learnt for name in m.members if name not in gone]


def _life(store: MemoryReader, until: TaskManifest, one_adapter: bool) -> list[str]:
    """Tasks, scores, gates and training, up to a point."""
    config = store.config
    table = read_scores(store, config["evaluate"]["split"], one_adapter=one_adapter)
    learnt = [m for m in store.lineage()[1:] if m.index <= until.index]
    now = until.directory == store.head.directory
    results = run_results(store, table)
    scores = _scores(table, until, _names(store, until), config["evaluate"]["bootstrap"], one_adapter)
    return [
        "## Tasks\n\n" + _tasks(store, learnt, retired(store, until)),
        "## Scores on held-out rows\n\n" + scores,
        *([_summaries(results)] if now else []),
        "## Gates\n\n" + _gates(results.get("gates"), now, until),
        "## How it was trained\n\n" + _training(config, store.identity["base"], store.identity.get("adapter")),
    ]


def _gates(checked: Mapping[str, Any] | None, now: bool, until: TaskManifest) -> str:
    """The gates that were checked last, at this point, and how to check others."""
    ask = f'Check a gate with `lifealign evaluate MEMORY --gate "bwt>=-1"{"" if now else " --as-of " + until.name}`.'
    if checked is None or not now or not checked["now"]:
        return f"None was checked at this point. {ask}"
    lines = [f"Checked {checked['created']}:", ""]
    for gate in checked["gates"]:
        value = "no value" if gate["value"] is None else f"{gate['value']:.2f}"
        lines.append(f"- `{gate['gate']}` {'held' if gate['held'] else '**failed**'}: {value}")
    return "\n".join(lines)


def _tasks(store: MemoryReader, learnt: list[TaskManifest], gone: Mapping[str, str]) -> str:
    kept = {t.name: t for t in heldout(store, with_retired=True)}
    lines = ["| task | learnt | rows read | rows kept | held out (validation, test) |", "|---|---|---|---|---|"]
    for manifest in learnt:
        reports = read_data(store, manifest).get("reports", {})
        for name in manifest.members:
            own = reports.get(name, [])
            read, used = sum(r["read"] for r in own), sum(r["kept"] for r in own)
            out = f"{len(kept[name].validation)}, {len(kept[name].test)}" if name in kept else "none"
            name = f"{name} ({words(store, name, gone[name])})" if name in gone else name
            lines.append(f"| {name} | {manifest.created[:10]} | {read} | {used} | {out} |")
    return "\n".join(lines) if learnt else "No task is learnt yet: the model answers like the base model."


def _scores(table: ScoreTable, until: TaskManifest, names: list[str], resamples: int, routed: bool) -> str:
    lines = ["| task | score | rows | before any task | now | 95% interval |", "|---|---|---|---|---|---|"]
    stage = until.directory
    for task in names:
        for name in table.measured(stage, task):
            score, cell = catalog.score(name), table.cell(stage, task, name, resamples)
            before, count = table.mean(ROOT, task, name), len(table.values(stage, task, name))
            unit = score.unit if score.unit in ("", "%") else f" {score.unit}"
            lines.append(
                f"| {task} | {score.label} | {count} | {_number(before, name, count)} | {_number(cell['value'], name, count)}{unit} | "
                f"{limits_text(cell['low'], cell['high'], name, count) or NONE} |"
            )
    if len(lines) > 2:
        return "\n".join(lines)
    return f"This adapter was not measured. {MEASURE}" if routed else "Nothing was measured at this point."


def _summaries(results: Mapping[str, Any]) -> str:
    found = results["summary"]
    parts = []
    for score, label in (("accuracy", "preference accuracy"), ("pass_rate", "the pass rate of greedy answers")):
        measured = {name: s for name, s in found.get(score, {}).items() if not math.isnan(s["value"])}
        lines = [
            f"| {catalog.summary(name).label} | {_number(s['value'], score)} | {_limits(s, score)} |"
            for name, s in measured.items()
        ]
        if lines:
            parts.append("\n".join([f"| of {label} | value | 95% interval |", "|---|---|---|", *lines]))
    return "\n\n".join(parts) or "Summaries of preference accuracy were not measured."


def _limits(summary: Mapping[str, Any], score: str) -> str:
    return NONE if math.isnan(summary["low"]) else limits_text(summary["low"], summary["high"], score)


def _training(config: Mapping[str, Any], base: Mapping[str, Any], adapter: Mapping[str, Any] | None) -> str:
    lora, train, strategy = config["lora"], config["train"], config["strategy"]
    loss = f"loss `{strategy['loss']}`" if "loss" in strategy else "its own loss"
    return "\n".join(
        [
            f"- strategy `{strategy['name']}`, {loss}, seed {config['seed']}",
            f"- LoRA of rank {lora['r']}, alpha {lora['alpha']:g}, on {', '.join(lora['target_modules'])}",
            f"- {train['epochs']} epoch{'s' * (train['epochs'] != 1)} at a learning rate of {train['learning_rate']:g}, as configured for the memory",
            f"- base model `{Path(base['model']).name}`, {base['dtype']}, SHA-256 of its weights `{base['weights']}`",
            *(
                [f"- begun with the adapter `{Path(adapter['source']).name}`, SHA-256 `{adapter['sha256']}`"]
                if adapter
                else []
            ),
        ]
    )


def _number(value: float, score: str, rows: int | None = None) -> str:
    return "not measured" if math.isnan(value) else number(value, score, rows)
