"""The model card of an export, written from the memory: its tasks, rows, scores, base model, and how to load it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lifealign.core.version import __version__
from lifealign.evaluation import catalog
from lifealign.evaluation.results import ScoreTable, read_scores, run_results
from lifealign.memory.routing import routes_prompts
from lifealign.store.documents import read_data
from lifealign.store.heldout import heldout
from lifealign.store.layout import ROOT
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import retired, words

CARD = "README.md"
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


def card(store: MemoryReader, until: TaskManifest, report: Mapping[str, Any], source: str, licence: str | None) -> str:
    """The text of the card.

    Args:
        store: the memory.
        until: the point of its life that is exported.
        report: of the export; see `exporting.REPORT`.
        source: path or id of the base model.
        licence: of the base model; None: not known.
    """
    config = store.config
    routed = routes_prompts(store, until)
    table = read_scores(store, config["evaluate"]["split"], one_adapter=routed)
    form, base = report["format"], config["model"]["name"]
    learnt = [m for m in store.lineage()[1:] if m.index <= until.index]
    gone = retired(store, until)
    names = [name for m in learnt for name in m.members if name not in gone]
    head = {
        **({"base_model": base} if "/" in base and not Path(base).exists() else {}),
        **({"library_name": LIBRARY[form]} if form in LIBRARY else {}),
        **({"license": licence} if licence else {}),
        "pipeline_tag": "text-generation",
        "tags": ["lifealign", *(["gguf"] if form.startswith("gguf") else [])],
    }
    parts = [
        "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items()) + "---",
        f"# {Path(base).name}, aligned on {len(names)} task{'s' * (len(names) != 1)}",
        f"Made by lifealign {__version__} from the memory `{store.path.name}` at `{until.directory}` ({until.created}), format "
        f"`{form}`. Licence of the base model: {licence or 'not known; see where the base model came from'}.",
        "## Load it\n\n" + LOAD[form].format(source=source),
        "Use the chat template: the model was trained and measured with it."
        if store.identity["template"] == "chat"
        else "The model was trained without a chat template, on turns that begin with `User:` and `Assistant:`.",
        "## Tasks\n\n" + _tasks(store, learnt, gone),
        "## Scores on held-out rows\n\n" + _scores(table, until, names, config["evaluate"]["bootstrap"], routed),
        *([_summaries(store, table)] if until.directory == store.head.directory else []),
        "## Gates\n\nA memory keeps scores and no gates. Check one with `lifealign evaluate MEMORY --gate "
        f'"bwt>=-1"{"" if until.directory == store.head.directory else " --as-of " + until.name}`.',
        "## How it was trained\n\n" + _training(config, report, store.identity.get("adapter")),
        "## How the export compares with the memory\n\n" + "\n".join(f"- {note}" for note in report["notes"]),
    ]
    return "\n\n".join(parts) + "\n"


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
            before = table.mean(ROOT, task, name)
            unit = score.unit if score.unit in ("", "%") else f" {score.unit}"
            lines.append(
                f"| {task} | {score.label} | {cell['rows']} | {_number(before)} | {_number(cell['value'])}{unit} | "
                f"{_number(cell['low'])} to {_number(cell['high'])} |"
            )
    if len(lines) > 2:
        return "\n".join(lines)
    return f"This adapter was not measured. {MEASURE}" if routed else "Nothing was measured at this point."


def _summaries(store: MemoryReader, table: ScoreTable) -> str:
    found = run_results(store, table)["summary"]
    parts = []
    for score, label in (("accuracy", "preference accuracy"), ("pass_rate", "the pass rate of greedy answers")):
        measured = {name: s for name, s in found.get(score, {}).items() if not math.isnan(s["value"])}
        lines = [
            f"| {catalog.summary(name).label} | {_number(s['value'])} | {_number(s['low'])} to {_number(s['high'])} |"
            for name, s in measured.items()
        ]
        if lines:
            parts.append("\n".join([f"| of {label} | value | 95% interval |", "|---|---|---|", *lines]))
    return "\n\n".join(parts) or "Summaries of preference accuracy were not measured."


def _training(config: Mapping[str, Any], report: Mapping[str, Any], adapter: Mapping[str, Any] | None) -> str:
    lora, train, strategy, base = config["lora"], config["train"], config["strategy"], report["base"]
    loss = f"loss `{strategy['loss']}`" if "loss" in strategy else "its own loss"
    return "\n".join(
        [
            f"- strategy `{strategy['name']}`, {loss}, seed {config['seed']}",
            f"- LoRA of rank {lora['r']}, alpha {lora['alpha']:g}, on {', '.join(lora['target_modules'])}",
            f"- {train['epochs']} epochs at a learning rate of {train['learning_rate']:g}, as configured for the memory",
            f"- base model `{Path(base['model']).name}`, {base['dtype']}, SHA-256 of its weights `{base['weights']}`",
            *(
                [f"- begun with the adapter `{Path(adapter['source']).name}`, SHA-256 `{adapter['sha256']}`"]
                if adapter
                else []
            ),
        ]
    )


def _number(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.2f}"
