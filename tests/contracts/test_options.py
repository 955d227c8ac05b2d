"""Every option does what it says, or is refused: one case for every field of every configuration model.

A run of two small tasks is boiled down to a fingerprint of parts; the case names the parts that the option must change,
and every part that it must leave alone is left alone. A new option without a case fails `test_every_option_has_a_case`.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import lifealign.data.load
import lifealign.memory.session
import lifealign.store.writer
from lifealign.core.config import (
    DataConfig,
    EvaluateConfig,
    GuardConfig,
    LoraConfig,
    ModelConfig,
    RunConfig,
    SftConfig,
    StreamConfig,
    TrainConfig,
)
from lifealign.core.errors import ConfigError, DataError, ModelError, StoreError, UserError
from lifealign.data.load import load_stream
from lifealign.data.tasks import Task, TaskStream
from lifealign.memory.api import Memory, run_stream
from lifealign.store.layout import ADAPTER, ROOT, STATE
from lifealign.strategies import STRATEGIES
from lifealign.strategies.configure import read_config
from support.adapters import save_adapter
from support.kinds import as_demonstrations
from support.tiny import save_tiny, save_with_code

SECTIONS: Mapping[str, type[BaseModel]] = {
    "model": ModelConfig,
    "lora": LoraConfig,
    "data": DataConfig,
    "sft": SftConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "guard": GuardConfig,
}
Fingerprint = dict[str, str]


@dataclass(frozen=True)
class Case:
    """One option's proof.

    Attributes:
        value: of the option, as on the command line.
        changes: parts of the fingerprint that must differ from the run without it.
        keeps: parts that must not.
        base: settings of both runs.
        refused: the run stops with this error instead; `message` is matched.
    """

    value: str
    changes: frozenset[str] = frozenset({"adapter"})
    keeps: frozenset[str] = frozenset()
    base: tuple[str, ...] = ()
    refused: type[UserError] | None = None
    message: str = ""


def case(value: str, changes: str = "adapter", *base: str, keeps: str = "") -> Case:
    return Case(value, frozenset(changes.split()), frozenset(keeps.split()), base)


def refused(value: str, error: type[UserError], message: str, *base: str) -> Case:
    return Case(value, base=base, refused=error, message=message)


TRAINED = "adapter replay losses"
"""What an option of evaluation must leave alone."""

SCORED = ("stream.planted=null", "stream.order=null", "strategy.loss=dpo", "strategy.margin_scale=0.5", "data.reward_transform=identity")  # fmt: skip

RUN: dict[str, Case] = {
    "model.name": case("{other}", "adapter scores"),
    "model.revision": refused("main", ConfigError, r"model.revision='main' is for hub ids, but .* is a local model"),
    "model.dtype": case("bfloat16", "adapter scores identity"),
    "model.template": case("plain", "adapter identity"),
    "model.template_date": case("2026-03-04", "adapter date", "model.name={dated}", "model.template_date=2025-01-02"),
    "model.adapter": case("{adapter}", "adapter identity"),
    "model.adapter_rows": case("{own_rows}", "measured encoding", "model.adapter={adapter}"),
    "model.trust_remote_code": refused(
        "false", ModelError, r"needs Python code of its own", "model.name={coded}", "model.trust_remote_code=true"
    ),
    "lora.r": case("3", "shapes identity"),
    "lora.alpha": case("8", "adapter identity"),
    "lora.rslora": case("true", "adapter identity"),
    "lora.dropout": case("0.3", "adapter identity"),
    "lora.target_modules": case("[o_proj]", "shapes identity"),
    "data.max_length": case("120", "encoding adapter"),
    "data.long_prompts": refused("error", DataError, r"leaves no room .*data.long_prompts=drop", "data.max_length=70"),
    "data.reasoning": case(
        "mask", "adapter encoding", "stream.planted=null", "stream.order=null", "stream.tasks={own}"
    ),
    "data.reward_transform": case("exp 2", "adapter losses", "stream.tasks={scored}", *SCORED),
    "data.system": case("merge", "adapter", "stream.planted=null", "stream.order=null", "stream.tasks={own}"),
    "data.select": case("isa_tail", "adapter selected", "data.select_share=0.5"),
    "data.select_share": case("0.5", "adapter steps selected"),
    "sft.epochs": case("1", "adapter stages"),
    "sft.learning_rate": case("0.05", "adapter", "sft.epochs=1"),
    "sft.loss": case("poft", "adapter losses", "sft.epochs=1"),
    "sft.beta": case("3.0", "adapter losses", "sft.epochs=1", "sft.loss=poft"),
    "sft.gamma": case("1.0", "adapter losses", "sft.epochs=1", "sft.loss=poft"),
    "sft.references": case("[base]", "adapter losses", "sft.epochs=1", "sft.loss=poft"),
    "train.epochs": case("2", "adapter steps"),
    "train.learning_rate": case("1e-4", "adapter", keeps="steps replay"),
    "train.pairs_per_step": case("4", "adapter steps"),
    "train.tokens_per_pack": case("1", "packs", keeps="steps replay"),
    "train.gpu_tokens_per_pack": refused("4096", ConfigError, r"is for GPUs, but this run is on the cpu"),
    "train.compile": refused("always", ConfigError, r"is for GPUs, but this run is on the cpu"),
    "train.warmup": case("1.0", "adapter rates", keeps="steps"),
    "train.weight_decay": case("0.5", "adapter", keeps="steps rates"),
    "train.max_grad_norm": case("1e-7", "adapter", keeps="steps rates"),
    "train.skip_weight_below": case("0.26", "adapter skipped", "strategy.loss=fpo"),
    "train.shared_prefix": case("never", "packed", keeps="steps"),
    "train.checkpoint_every": case("1", "checkpoints", keeps="adapter losses"),
    "train.trackers": case("[tensorboard]", "tracked", keeps="adapter"),
    "evaluate.split": case("validation", "measured", keeps=TRAINED),
    "evaluate.rows": case("1", "measured", keeps=TRAINED),
    "evaluate.before": case("true", "measured before", keeps=TRAINED),
    "evaluate.unseen": case("true", "measured matrix", keeps=TRAINED),
    "evaluate.cells": case("ends", "measured matrix", "stream.order=[1, 2, 3]", keeps=TRAINED),
    "evaluate.generations": case("1", "measured answers", keeps=TRAINED),
    "evaluate.max_new_tokens": case("2", "answers", "evaluate.generations=1", keeps=TRAINED),
    "evaluate.text_metrics": case(
        "[chrf, distinct_2]", "measured answers", "evaluate.generations=1", keeps=TRAINED + " scores"
    ),
    "evaluate.scores": case("['{scores}:chosen_tokens']", "measured", keeps=TRAINED + " scores"),
    "guard.text": case("{text}", "guard", keeps=TRAINED + " measured scores"),
    "guard.window": case("20", "guard", "guard.text={text}", "guard.stride=8", keeps=TRAINED),
    "guard.stride": case("9", "guard", "guard.text={text}", "guard.stride=8", "guard.window=20", keeps=TRAINED),
    "guard.tokens": case("30", "guard", "guard.text={text}", keeps=TRAINED),
    "guard.choices": case("{questions}", "guard", keeps=TRAINED + " measured scores"),
    "guard.questions": case("1", "guard", "guard.choices={questions}", keeps=TRAINED),
    "evaluate.bootstrap": case("1", "intervals", keeps=TRAINED + " measured scores"),
    "seed": case("1", "adapter replay identity", "strategy.name=replay"),
    "preset": case("lifelong", "adapter stages shapes identity", "strategy.name=lifealign"),
}

# A rate at which learning the second task goes against the first one's rows, or their gradients would change nothing.
CONFLICT = "train.learning_rate=0.05"
THUMBS = "stream.planted.unpaired=true"
# Two pairs of each planted task have a margin; the others are demonstrations, or stay as they are.
OWN_ROWS = "stream.name=own-rows"
MARGINS = "stream.name=margins"
DRIFTED = (
    "stream.planted=null",
    "stream.drifting={{drift: jump, train_rows: 4, validation_rows: 1, test_rows: 2}}",
    "stream.order=[3, 4]",
)
OBJECTIVE = {
    "loss": case("fpo", "adapter", keeps="replay"),
    "beta": case("0.5", "adapter scores", keeps="replay"),
    "gamma": case("1.0", "adapter", "strategy.loss=fpo"),
    # Clipping would hide a factor on the gradient only if it bound; Adam nearly hides it, but not to the last bit.
    "normalise_weights": case("true", "adapter norms", "strategy.loss=fpo", keeps="replay"),
    "simpo_margin": case("2.0", "adapter", "strategy.loss=simpo"),
    "orpo_weight": case("1.0", "adapter", "strategy.loss=orpo"),
    "label_smoothing": case("0.3", "adapter losses", keeps="replay"),
    "length_normalised": case("true", "adapter losses scores", keeps="replay"),
    "ld_alpha": case("0.0", "adapter losses", keeps="replay"),
    "f_divergence": case("js", "adapter losses", keeps="replay"),
    # At the reference all of them have the same slope, so the policy must have left it by far.
    "f_alpha": case("0.9", "adapter losses", "strategy.f_divergence=alpha", CONFLICT),
    "rpo_alpha": case("1.0", "adapter losses", keeps="replay"),
    "margin_scale": case("0.5", "adapter losses", OWN_ROWS),
    "unpaired_loss": case("bco", "adapter losses", THUMBS, keeps="replay"),
    "desirable_weight": case("3.0", "adapter losses", THUMBS, keeps="replay"),
    "undesirable_weight": case("3.0", "adapter losses", THUMBS, keeps="replay"),
    "demonstration_weight": case("3.0", "losses", OWN_ROWS, keeps="replay"),
    "reference": case("previous_task", "adapter losses"),
    "reference_context": case("be brief", "adapter losses", keeps="replay"),
    "route": case("true", "scores", keeps="adapter replay losses"),
}
NO_SUM = {"route": refused("true", ConfigError, r"strategy.route=true answers .* does not keep a sum of updates")}
REPLAY = {
    "replay_policy": case("oldest_out", "replay", "strategy.replay_capacity=3", "strategy.replay_share=0.75"),
    "replay_share": case("1.0", "replay adapter"),
    "replay_select": case("isa_tail", "replay", "strategy.replay_share=0.5"),
    "replay_capacity": case("1", "replay", "strategy.replay_share=1.0"),
}
CONSOLIDATION = {
    "space": case("delta_w", "adapter state diagnostics", keeps="replay"),
    "theta": case("0.3", "adapter diagnostics", keeps="replay"),
    "overlap_scale": case("0.0", "adapter diagnostics", keeps="replay"),
    "projection": case("shrink", "adapter", keeps="replay"),
    "basis_capacity": case("1", "state"),
}
# A projection of the gradient is sure to bind at this rate; one of the step is another matter.
ON_GRADIENT = (CONFLICT, "strategy.target=gradient")
MEMORY = {
    "memory_pairs": case("1", "replay adapter", *ON_GRADIENT),
    "target": case("gradient", "adapter", CONFLICT, keeps="replay"),
}
# Statistics of two pairs, and thresholds near their mean, so that weights are not all 1.
NARROW = ("strategy.window=2", "strategy.threshold_std=0.1")
OWN_TERMS = {"normalise_weights": refused("true", ConfigError, r"this strategy's own terms", "strategy.loss=fpo")}
NO_FEEDBACK = {
    key: refused(
        value, ConfigError, rf"strategy.{key} is for rows of kind undesirable, which strategy \w+ does not learn"
    )
    for key, value in (("unpaired_loss", "bco"), ("desirable_weight", "3.0"), ("undesirable_weight", "3.0"))
}
PAIRS_ALONE = {
    **NO_FEEDBACK,
    "demonstration_weight": refused(
        "3.0", ConfigError, r"demonstration_weight is for rows of kind demonstration, which"
    ),
    "margin_scale": case("0.5", "adapter losses", MARGINS),
}
L2P = {
    "pool": case("12", "shapes"),
    "length": case("2", "shapes"),
    "top_k": case("2", "adapter", keeps="shapes"),
    "key_pull": case("0", "adapter losses", keeps="shapes"),
}
READY2BLEND = {
    "tokens": case("2", "shapes state"),
    "width": case("8", "shapes"),
    "point": case("1.0", "adapter losses", keeps="shapes"),
    "pair": case("10.0", "adapter norms", keeps="shapes"),
    # The third task is scored while it is unknown, by a blend of the two in the bank.
    "temperature": case("10.0", "scores", "stream.order=[1, 2, 3]", "evaluate.unseen=true", keeps="state " + TRAINED),
}
STRATEGY: Mapping[str, Mapping[str, Case]] = {
    "agem": {**OBJECTIVE, **MEMORY, "sample_pairs": case("1", "adapter", *ON_GRADIENT, keeps="replay")},
    "copr": {
        **REPLAY,
        "route": OBJECTIVE["route"],
        "replay_policy": case("oldest_out", "replay state", "strategy.replay_capacity=3", "strategy.replay_share=0.75"),
        "beta": case("0.5", "adapter scores state", keeps="replay"),
        "reward": case("0.5", "adapter state", keeps="replay"),
        "reward_concentration": case("5.0", "adapter state", keeps="replay"),
        "excess": case("1.0", "state", keeps="replay"),
        "slack": case("0.0", "state", keeps="replay"),
        "multiplier": case("0.0", "adapter state", keeps="replay"),
        "multiplier_max": case("1.0", "state", "strategy.slack=0.0", keeps="replay"),
        "multiplier_rate": case("10.0", "adapter state", "strategy.replay_share=1.0", keeps="replay"),
        "sft_weight": case("0.0", "adapter", keeps="replay"),
    },
    "cppo": {
        **OBJECTIVE,
        **OWN_TERMS,
        **PAIRS_ALONE,
        "beta": case("0.5", "adapter scores state", keeps="replay"),
        "retention": case("3.0", "adapter", keeps="replay"),
        "threshold_std": case("0.1", "adapter"),
        "lower": case("0.1", "adapter", *NARROW),
        "upper": case("5.0", "adapter", *NARROW),
        "window": case("2", "adapter state", "strategy.threshold_std=0.1"),
    },
    "gem": {
        **OBJECTIVE,
        **MEMORY,
        "margin": case("0.0", "adapter", *ON_GRADIENT, keeps="replay"),
        "eps": case("10.0", "adapter", *ON_GRADIENT, keeps="replay"),
    },
    "ogpsa": {**OBJECTIVE, **MEMORY, "refresh": case("2", "adapter", keeps="replay")},
    "derpp": {
        **OBJECTIVE,
        **OWN_TERMS,
        **PAIRS_ALONE,
        **REPLAY,
        "logps_weight": case("3.0", "adapter losses", keeps="replay"),
        "buffer_weight": case("2.0", "adapter losses", keeps="replay"),
    },
    "ewc": {
        **OBJECTIVE,
        "strength": case("1e8", "adapter", keeps="replay"),
        "penalty_weight": case("1.0", "adapter", keeps="replay"),
        "decay": case("0.5", "state diagnostics", keeps="adapter losses"),
        "fisher_pairs": case("1", "state diagnostics adapter"),
    },
    "lwf": {**OBJECTIVE, **OWN_TERMS, **NO_FEEDBACK, "weight": case("5.0", "adapter losses")},
    "si": {
        **OBJECTIVE,
        "penalty_weight": case("100.0", "adapter", keeps="replay"),
        "xi": case("0.1", "state diagnostics adapter"),
    },
    "sequential": OBJECTIVE | {"extrapolate": case("1", "adapter losses state diagnostics", *DRIFTED, keeps="replay")},
    "joint": {
        **OBJECTIVE,
        **NO_SUM,
        # All tasks in one run from the initial adapter: only a task start after SFT differs from the base model.
        "reference": case("task_start", "adapter losses", "sft.epochs=1"),
    },
    "merge": {
        **OBJECTIVE,
        **NO_SUM,
        "method": case("magmax", "adapter diagnostics"),
        "scale": case("0.7", "adapter diagnostics"),
        "keep": case("0.5", "adapter diagnostics", "strategy.method=ties"),
        "drop": case("0.5", "adapter diagnostics", "strategy.method=dare"),
        "interpolation": case("0.2", "adapter diagnostics", "strategy.method=slerp"),
    },
    "replay": OBJECTIVE | REPLAY,
    "single": OBJECTIVE | NO_SUM,
    "olora": {
        **OBJECTIVE,
        **NO_SUM,
        "orthogonality_weight": case("5.0", "adapter norms diagnostics"),
        "l2_weight": case("0.1", "adapter"),
    },
    "nlora": {**OBJECTIVE, **NO_SUM, "penalty_weight": case("0.1", "adapter norms diagnostics")},
    "sdlora": OBJECTIVE | NO_SUM,
    "inflora": {
        **OBJECTIVE,
        **NO_SUM,
        "energy": case("plain", "adapter state diagnostics"),
        "protected_first": case("0.5", "adapter state diagnostics", "strategy.energy=plain"),
        # What is protected after the second of two tasks: no later one shows it in its weights.
        "protected_last": case("0.96", "state diagnostics", "strategy.tasks=2", "strategy.energy=plain"),
        "tasks": case("2", "state diagnostics", "strategy.energy=plain"),
    },
    "l2p": OBJECTIVE | NO_SUM | OWN_TERMS | L2P,
    "ready2blend": OBJECTIVE | NO_SUM | OWN_TERMS | READY2BLEND,
    "lifealign": {
        **OBJECTIVE,
        "loss": case("ipo", "adapter", keeps="replay"),
        # The focal loss is this method's own default, so these need no base to stand on.
        "gamma": case("1.0", "adapter"),
        "normalise_weights": case("true", "adapter norms", keeps="replay"),
        "label_smoothing": case("0.3", "adapter losses", "strategy.loss=dpo", keeps="replay"),
        "margin_scale": case("0.5", "adapter losses", "strategy.loss=dpo", OWN_ROWS),
        **REPLAY,
        **CONSOLIDATION,
        "consolidate": case("stage", "adapter state diagnostics", "sft.epochs=1"),
        "begin": case("initial", "adapter losses", keeps="replay"),
        "rehearse": case("false", "adapter", "strategy.sleep_epochs=1", keeps="replay"),
        "sleep_epochs": case("1", "losses diagnostics", keeps="adapter replay"),
        "sleep_learning_rate": case("1e-2", "losses", "strategy.sleep_epochs=1", keeps="adapter replay"),
    },
}

# What an option refuses, because it would do nothing or something else than it says.
REFUSED = [
    (
        ("data.reward_transform=log",),
        ConfigError,
        "data.reward_transform=log gives pairs their margins, which are not read without strategy.margin_scale",
    ),
    (("strategy.gamma=1.0", "strategy.loss=dpo"), ConfigError, r"gamma is read by loss fpo only, got gamma 1.0"),
    (("strategy.normalise_weights=true", "strategy.loss=ipo"), ConfigError, r"normalise_weights is read by loss fpo"),
    (("strategy.simpo_margin=1",), ConfigError, r"simpo_margin is read by loss simpo only"),
    (("strategy.orpo_weight=1",), ConfigError, r"orpo_weight is read by loss orpo only"),
    (("strategy.loss=orpo", "strategy.beta=1.0"), ConfigError, r"loss orpo reads no beta"),
    (
        ("strategy.loss=hinge", "strategy.label_smoothing=0.1"),
        ConfigError,
        r"label_smoothing is read by the losses dpo and robust only, got label_smoothing 0.1 with loss hinge",
    ),
    (
        ("strategy.loss=simpo", "strategy.length_normalised=true"),
        ConfigError,
        r"length_normalised is read by the losses dpo, fpo, ipo, hinge and robust only",
    ),
    (("strategy.loss=orpo", "strategy.ld_alpha=0.5"), ConfigError, r"ld_alpha is read by the losses dpo, fpo"),
    (
        ("strategy.loss=ipo", "strategy.f_divergence=js"),
        ConfigError,
        r"f_divergence is read by the losses dpo, fpo, hinge",
    ),
    (("strategy.f_alpha=0.3",), ConfigError, r"f_alpha is read by f_divergence alpha only, got f_alpha 0.3"),
    (("strategy.loss=orpo", "strategy.rpo_alpha=1"), ConfigError, r"rpo_alpha is read by .* aft_bc and aft_rank only"),
    (
        ("strategy.length_normalised=true", "strategy.f_divergence=js"),
        ConfigError,
        r"length_normalised and f_divergence each define the reward of an answer",
    ),
    (("strategy.rpo_alpha=1", "strategy.ld_alpha=0.5"), ConfigError, r"but ld_alpha takes part of their tokens out"),
    (
        ("strategy.loss=fpo", "strategy.rpo_alpha=1", "strategy.normalise_weights=true"),
        ConfigError,
        r"normalise_weights would divide the likelihood term of rpo_alpha",
    ),
    (
        ("strategy.loss=fpo", "strategy.rpo_alpha=1", "train.skip_weight_below=0.1"),
        ConfigError,
        r"skip_weight_below=0.1 skips pairs by their focal weight, and with them the likelihood term of rpo_alpha",
    ),
    (
        ("strategy.loss=simpo", "strategy.reference_context=be brief"),
        ConfigError,
        r"loss simpo reads no reference, so reference_context has no effect",
    ),
    (("strategy.reference_context='@nowhere.txt'",), ConfigError, r"nowhere.txt"),
    (("strategy.loss=simpo", "strategy.reference=task_start"), ConfigError, r"simpo reads no reference"),
    (("strategy.name=lifealign", "strategy.consolidate=stage"), ConfigError, r"sft.epochs=0 leaves only one"),
    (("strategy.name=replay", "strategy.replay_share=0"), ConfigError, r"replay_share: .* greater than 0"),
    (("strategy.reference=task_start",), ConfigError, r"policy after the SFT stage, but sft.epochs=0 leaves"),
    (
        ("strategy.name=lwf", "strategy.loss=fpo", "train.skip_weight_below=0.1"),
        ConfigError,
        r"skip_weight_below=0.1 skips pairs by their focal weight, and with them the terms that strategy lwf adds",
    ),
    (
        ("strategy.name=inflora", "strategy.protected_first=0.9", "strategy.protected_last=0.8"),
        ConfigError,
        r"protected_first 0.9 must not be above",
    ),
    (
        ("strategy.name=lifealign", "strategy.projection=none", "strategy.overlap_scale=1"),
        ConfigError,
        r"none reads no overlap_scale",
    ),
    (
        (
            "strategy.name=replay",
            "strategy.replay_policy=per_task_quota",
            "strategy.replay_capacity=1",
        ),
        ConfigError,
        r"replay_capacity 1 is less than one row for each of 2 tasks",
    ),
    (("strategy.name=merge", "strategy.keep=0.5"), ConfigError, r"keep is read by method ties only, got keep 0.5"),
    (
        ("strategy.name=merge", "strategy.method=slerp", "strategy.scale=1"),
        ConfigError,
        r"scale is read by method task_",
    ),
    (("model.template=chat", "model.name={plain}"), DataError, r"tokenizer has no chat template; allowed: plain"),
    (
        ("guard.questions=3",),
        ConfigError,
        r"questions=3 has no effect without guard.choices; set guard.choices or remove",
    ),
    (("guard.tokens=3",), ConfigError, r"tokens=3 has no effect without guard.text; set guard.text or remove"),
    (("guard.text={text}", "guard.stride=512"), ConfigError, r"stride must be below window=512, got 512"),
    (
        ("guard.text={text}", "guard.window=5000"),
        ConfigError,
        r"guard.window=5000: the base model's context is 512 tokens",
    ),
    (("guard.text={text}.gone",), StoreError, r"text.txt.gone: missing"),
    (("evaluate.text_metrics=[chrf]",), ConfigError, r"evaluate: text_metrics \['chrf'\] .* but generations=0"),
    (("evaluate.generations=1", "evaluate.text_metrics=[chrf,chrf]"), ConfigError, r"text_metrics must be unique"),
    (
        ("evaluate.generations=1", "evaluate.text_metrics=[meteor]"),
        ConfigError,
        r"evaluate.text_metrics: unknown text metric 'meteor'; allowed: bleu, ",
    ),
    (("lora.target_modules=[lm_head]",), ConfigError, r"tied embeddings"),
    (
        ("lora.target_modules=[all-linear, q_proj]",),
        ConfigError,
        r"all-linear stands for all linear modules; give it alone",
    ),
    (
        ("lora.target_modules=[wq]",),
        ConfigError,
        r"no linear module has such a name; linear modules of this model: \['down_",
    ),
    (("lora.dora=true",), ConfigError, r"dora is not supported: its magnitudes divide"),
    (("lora.use_dora=true",), ConfigError, r"use_dora is not supported"),
    (("lora.rank_pattern={{q_proj: 4}}",), ConfigError, r"rank_pattern is not supported: every strategy adds up"),
    (("lora.init=pissa",), ConfigError, r"init is not supported: pissa, olora and eva change the base"),
    (("lora.modules_to_save=[lm_head]",), ConfigError, r"modules_to_save is not supported: it trains whole modules"),
    (("model.trust_remote_code=true",), ConfigError, r"trust_remote_code=true has no effect: .* no code of its own"),
    (("data.select=isa_tail",), ConfigError, r"select=isa_tail has no effect while select_share=1 keeps all rows"),
    (("data.select=isa", "data.select_share=0.5"), ConfigError, r"unknown selector 'isa'"),
    (("sft.loss=poft",), ConfigError, r"loss poft is for the SFT stage, but epochs=0 leaves it out"),
    (("sft.epochs=1", "sft.gamma=1"), ConfigError, r"sft.gamma is read by sft.loss=poft only, got gamma 1.0"),
    (
        ("sft.epochs=1", "sft.loss=poft", "sft.references=[bread]"),
        ConfigError,
        r"sft.references: 'bread' is no point of this memory",
    ),
    (("strategy.name=copr", "strategy.loss=ipo"), ConfigError, r"strategy.loss: unknown key.*multiplier_rate"),
    (("strategy.name=agem", "strategy.margin=0.1"), ConfigError, r"strategy.margin: unknown key.*sample_pairs"),
    (("strategy.name=replay", "strategy.theta=0.5"), ConfigError, r"strategy.theta: unknown key.*replay_share"),
]

SAME_FOR_ALL = {"reference_context": ("sequential", "lifealign", "l2p")}
"""Options that no strategy touches -> the strategies that they are tried with, since each run takes a second."""
NEED_TWO_TASKS = {"reference", "reference_context", "route"}
"""Options of an objective that do nothing in the first task; the others are most cases, so a run of theirs learns one."""


def _short(key: str, wanted: Case) -> Case:
    if wanted is not OBJECTIVE.get(key) or key in NEED_TWO_TASKS:
        return wanted
    return replace(wanted, base=(*wanted.base, "stream.order=[1]"))


CASES = RUN | {
    f"{name}:{key}": _short(key, value)
    for name, options in STRATEGY.items()
    for key, value in options.items()
    if name in SAME_FOR_ALL.get(key, (name,))
}


@pytest.fixture(scope="module")
def places(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Models that settings name: the tiny one, another one, and one without a chat template."""
    folder = tmp_path_factory.mktemp("models")
    plain = save_tiny(folder / "plain")
    tokenizer_config = json.loads((plain / "tokenizer_config.json").read_text())
    tokenizer_config.pop("chat_template", None)
    (plain / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    text, questions = folder / "text.txt", folder / "questions.jsonl"
    text.write_text("how do I bake bread at home? the answer is one short sentence, and then another one. " * 2)
    own_scores = folder / "own_scores.py"
    own_scores.write_text("def chosen_tokens(pairs):\n    return pairs.tokens[:, 0]\n")
    ask = {"question": "how do I bake bread?", "choices": ["at home", "in one sentence"], "answer": 0}
    questions.write_text(f"{json.dumps(ask)}\n{json.dumps(ask | {'answer': 1})}\n")
    dated = save_tiny(folder / "dated")
    template = dated / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}" + template.read_text())
    system, chosen = {"role": "system", "content": "be brief"}, "<think>so</think>at home"
    lines = [
        {"prompt": [system, {"role": "user", "content": f"bake {i}?"}], "chosen": chosen, "rejected": "no"}
        for i in range(6)
    ]
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    own = {"name": "own", "train": {"path": str(folder / "own.jsonl")}, "validation_rows": 1, "test_rows": 2}
    scored = [{"prompt": f"bake {i}?", "responses": ["a", "b b", "c c c"], "scores": [i, 2, 9]} for i in range(6)]
    (folder / "scored.jsonl").write_text("\n".join(map(json.dumps, scored)))
    return {
        "scored": json.dumps([own | {"train": {"path": str(folder / "scored.jsonl")}}]),
        "dated": str(dated),
        "own": json.dumps([own]),
        "own_rows": str(folder / "own.jsonl"),
        "adapter": str(save_adapter(tiny_dir, folder / "adapter", r=2, lora_alpha=4)),
        "text": str(text),
        "questions": str(questions),
        "scores": str(own_scores),
        "tiny": str(tiny_dir),
        "other": str(save_tiny(folder / "other", seed=1)),
        "plain": str(plain),
        "coded": str(save_with_code(folder / "coded")),
    }


def own_rows(config: StreamConfig, seed: int) -> TaskStream:
    """The stream with margins, and with demonstrations for the other pairs if it is not called so."""

    def turned(task: Task) -> Task:
        pairs = tuple(replace(row, margin=float(i + 1)) for i, row in enumerate(task.train[:2]))
        others = task.train[2:] if config.name == "margins" else as_demonstrations(task.train[2:])
        return replace(task, train=(*pairs, *others))

    stream = load_stream(config, seed)
    return replace(stream, tasks=tuple(map(turned, stream.tasks)))


@dataclass
class Runner:
    """Runs settings once each; the parts of what came out."""

    places: Mapping[str, str]
    folder: Path
    known: dict[tuple[str, ...], Fingerprint]

    def config(self, settings: tuple[str, ...]) -> RunConfig:
        base: dict[str, Any] = {
            "memory": str(self.folder / f"memory-{len(self.known)}-{len(list(self.folder.iterdir()))}"),
            "model": {"name": self.places["tiny"], "dtype": "float32"},
            "lora": {"r": 2, "alpha": 4},
            "data": {"max_length": 400, "long_prompts": "drop"},
            "strategy": {"name": "sequential"},
            "train": {"epochs": 1, "pairs_per_step": 2, "learning_rate": 5e-3},
            "evaluate": {"bootstrap": 20, "before": False},
            "stream": {"planted": {"train_rows": 4, "validation_rows": 1, "test_rows": 2}, "order": [1, 2]},
        }
        return read_config(None, [s.format(**self.places) for s in settings], base=base)

    def __call__(self, *settings: str) -> Fingerprint:
        if settings not in self.known:
            with pytest.MonkeyPatch.context() as patch:
                if OWN_ROWS in settings or MARGINS in settings:
                    patch.setattr(lifealign.data.load, "load_stream", own_rows)
                self.known[settings] = fingerprint(self.config(settings), patch)
        return self.known[settings]


@pytest.fixture(scope="module")
def run(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        # Hundreds of runs: no waiting for the disk, and a model is read once (a run gets a copy of its own).
        patch.setattr(lifealign.store.writer, "_versions", functools.cache(lifealign.store.writer._versions))
        patch.setattr(os, "fsync", lambda descriptor: None)
        drawn: dict[str, TaskStream] = {}

        def once(config: StreamConfig, seed: int) -> TaskStream:
            key = f"{seed} {config.model_dump_json()}"
            return drawn[key] if key in drawn else drawn.setdefault(key, load_stream(config, seed))

        patch.setattr(lifealign.data.load, "load_stream", once)
        read = functools.cache(lifealign.memory.session.load_base)
        patch.setattr(lifealign.memory.session, "load_base", lambda config: copy.deepcopy(read(config)))
        yield Runner(places, tmp_path_factory.mktemp("runs"), {})
    torch.set_num_threads(threads)


def counted(patch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Calls of a function that the training loop uses."""
    import lifealign.training.loop as module

    real: Callable[..., Any] = getattr(module, name)
    calls: list[Any] = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return real(*args, **kwargs)

    patch.setattr(module, name, wrapped)
    return calls


def fingerprint(config: RunConfig, patch: pytest.MonkeyPatch) -> Fingerprint:
    """Run a stream; every part of what it left, as short strings that can be compared."""
    packs, checkpoints = counted(patch, "token_logps"), counted(patch, "write_checkpoint")
    memory = run_stream(config)
    store = memory._store
    commits = store.lineage()[1:]
    adapter, state = (store.load_tensors(store.head, stem) for stem in (ADAPTER, STATE))
    logs = [line for m in commits for line in store.load_lines(m, "training.jsonl")]
    records = [r for r in store.evaluations() if r["kind"] == "row"]
    results = memory.results()
    guarded = [r for r in store.evaluations() if r["kind"] == "guard"]
    identity = {k: v for k, v in store.identity.items() if k not in ("config", "base")}
    tracked = [p for p in (memory.path / "work").rglob("*") if "tfevents" in p.name]
    return {
        "adapter": _tensors(adapter),
        "shapes": str(sorted((k, list(v.shape)) for k, v in adapter.items())),
        "state": _tensors(state),
        "date": str(memory.config.model.template_date),
        "identity": json.dumps([identity, store.identity["base"]["dtype"], store.identity["seed"]], sort_keys=True),
        "replay": str([store.load_lines(m, "replay.jsonl") for m in commits]),
        "selected": str([store.load_document(m, "data.json").get("selected") for m in commits]),
        "encoding": str([store.load_document(m, "data.json")["encoding"] for m in commits]),
        "diagnostics": str([store.load_document(m, "diagnostics.json") for m in commits]),
        "packed": str([m.meta["shared_prefix"] for m in commits]),
        "steps": str(len([x for x in logs if x["stage"] == "preference"])),
        "stages": str({x["stage"] for x in logs}),
        "losses": str([x["loss"] for x in logs]),
        "rates": str([x["learning_rate"] for x in logs]),
        "norms": str([x["grad_norm"] for x in logs]),
        "skipped": str([x.get("skipped") for x in logs]),
        "packs": str(len(packs)),
        "checkpoints": str(len(checkpoints)),
        "tracked": str(len(tracked)),
        "measured": str(
            [(r["after"], r["options"]["split"], s["task"], _counts(s)) for r in records for s in r["scores"]]
        ),
        "scores": str([s["rows"]["margin"] for r in records for s in r["scores"]]),
        "answers": str([s["answers"] for r in records for s in r["scores"]]),
        "guard": str([(r["after"], r["options"]["probe"], r["scores"]) for r in guarded]),
        "before": str([r["after"] == ROOT for r in records]),
        "matrix": str([[math.isnan(v) for v in row] for row in memory.scores()]),
        "intervals": str([results["scores"][m]["low"] for m in ("margin", "nll")]),
    }


def _counts(score: Mapping[str, Any]) -> dict[str, int]:
    return {metric: len(values) for metric, values in score["rows"].items()}


def _tensors(tensors: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def test_every_option_has_a_case() -> None:
    fields = {f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields}
    assert fields | {"seed", "preset"} == set(RUN)
    # What remains of RunConfig is a place (memory), a name with options of its own, or the rows themselves.
    assert set(RunConfig.model_fields) == set(SECTIONS) | {"seed", "preset", "memory", "strategy", "stream"}
    for name, strategy in STRATEGIES.items():
        assert set(strategy.Config.model_fields) == set(STRATEGY[name]), name
    assert set(STRATEGY) == set(STRATEGIES)
    no_sum = {name for name, strategy in STRATEGIES.items() if not strategy.sums_updates}
    assert no_sum == {name for name, options in STRATEGY.items() if options["route"].refused is not None}


@pytest.mark.parametrize("key", CASES)
def test_option_has_its_effect(key: str, run: Runner) -> None:
    wanted = CASES[key]
    strategy, colon, option = key.rpartition(":")
    named = (f"strategy.name={strategy}",) if colon else ()
    setting = f"strategy.{option}={wanted.value}" if colon else f"{key}={wanted.value}"
    if wanted.refused is not None:
        with pytest.raises(wanted.refused, match=wanted.message):
            run(*named, *wanted.base, setting)
        run(*named, *wanted.base)  # without the option it is fine
        return
    if key == "train.trackers":
        pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    before, after = run(*named, *wanted.base), run(*named, *wanted.base, setting)
    changed = {part for part in before if before[part] != after[part]}
    assert wanted.changes <= changed, f"unchanged: {sorted(wanted.changes - changed)}; changed: {sorted(changed)}"
    assert not wanted.keeps & changed


@pytest.mark.parametrize(("settings", "error", "message"), REFUSED, ids=lambda v: v[0] if isinstance(v, tuple) else "")
def test_option_is_refused_where_it_would_do_nothing(
    settings: tuple[str, ...], error: type[UserError], message: str, run: Runner
) -> None:
    with pytest.raises(error, match=message):
        run(*settings)


def test_memory_is_made_where_the_configuration_says(run: Runner, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "here", run.config(()))
    assert memory.path == tmp_path / "here" and (tmp_path / "here" / "HEAD").is_file()
    assert memory.config.memory == str(tmp_path / "here")


def test_the_same_run_twice_has_the_same_fingerprint(run: Runner) -> None:
    """Or every case above would hold for no reason."""
    first = run("strategy.name=lifealign")
    run.known.pop(("strategy.name=lifealign",))
    assert run("strategy.name=lifealign") == first
