"""Run configuration: frozen models that refuse unknown keys, read from YAML with ``--set a.b=c`` on top.

Every field's docstring gives its unit and range. All mistakes of a file are reported at once, each with its key.
This module imports no torch. Each strategy defines its own options (`Strategy.Config`, in the strategy's file);
`load_config` receives those classes, so that their mistakes are reported together with all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lifealign.core.config_files import explain, merge, nearest, read_yaml, together
from lifealign.core.errors import ConfigError
from lifealign.core.frozen import Frozen as Frozen
from lifealign.core.json_text import DEEPEST
from lifealign.core.limits import shown
from lifealign.core.lora_config import LoraConfig as LoraConfig
from lifealign.core.model_config import ModelConfig as ModelConfig
from lifealign.core.option_names import current_names
from lifealign.core.presets import with_preset
from lifealign.core.reward_transform import Transform
from lifealign.core.source_config import SourceConfig as SourceConfig
from lifealign.core.stream_config import SUITE_SIZES as SUITE_SIZES
from lifealign.core.stream_config import StreamConfig as StreamConfig
from lifealign.core.stream_config import SuiteConfig as SuiteConfig
from lifealign.core.stream_config import TaskConfig as TaskConfig
from lifealign.core.yaml_text import YamlError, parse_yaml


class DataConfig(Frozen):
    """Conversion of rows to token ids."""

    _newer: ClassVar[frozenset[str]] = frozenset({"reasoning", "system", "select", "select_share", "reward_transform"})
    max_length: int = Field(1024, ge=8)
    """Tokens of prompt plus one answer; longer answers are cut (and counted). 8 <= max_length."""
    long_prompts: Literal["error", "drop"] = "error"
    """If a prompt leaves no room for an answer: `error` stops; `drop` leaves the row out and counts it."""
    reasoning: Literal["train", "mask", "drop"] = "train"
    """Reasoning in answers (`<think>...</think>`): `train` it, `mask` it (read, but not trained), or `drop` it."""
    system: Literal["keep", "merge"] = "keep"
    """System texts: `keep` leaves them to the template, `merge` puts them at the head of the first user turn."""
    select: str = "random"
    """Which training rows are kept where `select_share` leaves some out: `random`, `isa_tail` (unusual ones), `isa_mode` (typical
    ones), a registered name, or path/to/file.py:function."""
    select_share: float = Field(1.0, gt=0, le=1)
    """Share of a task's different training rows that are kept. 0 < select_share <= 1; 1: all."""
    reward_transform: str | None = None
    """Margins of scored answers: `identity`, `log` or `exp T` of scores calibrated by prompt; None: score differences."""

    @field_validator("reward_transform")
    @classmethod
    def _known_transform(cls, value: str | None) -> str | None:
        return None if value is None else str(Transform.parse(value))

    @model_validator(mode="after")
    def _rows_to_select(self) -> DataConfig:
        if self.select != "random" and self.select_share == 1:
            raise ValueError(
                f"select={self.select} has no effect while select_share=1 keeps all rows; lower select_share"
            )
        return self


class SftConfig(Frozen):
    """The supervised stage on the chosen answers, before the preference stage."""

    _newer: ClassVar[frozenset[str]] = frozenset({"loss", "beta", "gamma", "references"})
    epochs: int = Field(0, ge=0)
    """Passes over the rows; 0 skips the stage. 0 <= epochs."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate. 0 < learning_rate."""
    loss: str = "nll"
    """`nll`, `poft` (less weight for answers that earlier policies find unlikely), a registered name, or path/to/file.py:function."""
    beta: float = Field(1.0, gt=0)
    """poft only: reward per nat and token. 0 < beta."""
    gamma: float = Field(0.0, ge=0)
    """poft only: reward by which an answer must be ahead of the references. 0 <= gamma."""
    references: tuple[str, ...] = ("previous_task",)
    """poft only: `previous_task`, `base`, `earlier_tasks` (after each one), or names of points, whose mean an answer is compared with."""

    @model_validator(mode="after")
    def _a_stage_to_change(self) -> SftConfig:
        if self.loss != "nll" and not self.epochs:
            raise ValueError(
                f"loss {self.loss} is for the SFT stage, but epochs=0 leaves it out; set epochs to 1 or more"
            )
        if not self.references or len(set(self.references)) != len(self.references):
            raise ValueError(f"references must be one or more different names, got {list(self.references)}")
        return self


class TrainConfig(Frozen):
    """The preference stage, and settings that both stages share."""

    _newer: ClassVar[frozenset[str]] = frozenset({"gpu_tokens_per_pack", "compile"})
    epochs: int = Field(2, ge=0)
    """Passes of the preference stage over the task's rows. 0 <= epochs."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate of the preference stage. 0 < learning_rate."""
    pairs_per_step: int = Field(16, ge=1)
    """Pairs per optimizer step, over all processes. 1 <= pairs_per_step."""
    tokens_per_pack: int = Field(512, ge=1)
    """Token budget of one packed forward pass; a longer pair gets its own pass. 1 <= tokens_per_pack."""
    gpu_tokens_per_pack: int | Literal["auto"] = "auto"
    """The same on a GPU, where `tokens_per_pack` is not used; `auto` measures it at start-up. 1 <= gpu_tokens_per_pack."""
    compile: Literal["auto", "always", "never"] = "auto"
    """On a GPU, run packed rows through `torch.compile`: twice as fast once compiled; `auto`: where the work is long enough."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of the optimizer steps in which the learning rate rises, before the cosine decay. 0 <= warmup <= 1."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW weight decay. 0 <= weight_decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradient norm above which gradients are scaled down. 0 < max_grad_norm."""
    skip_weight_below: float = Field(0.0, ge=0, le=1)
    """Skip the backward pass for pairs with a smaller focal weight; 0: never skip. 0 <= skip_weight_below <= 1."""
    shared_prefix: Literal["auto", "always", "never"] = "auto"
    """`auto`: probe at start-up, use plain rows if results differ. `always`: stop instead. `never`: plain rows."""
    checkpoint_every: int = Field(10, ge=1)
    """Optimizer steps between checkpoints; a killed run resumes from the last one. 1 <= checkpoint_every."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Experiment trackers, by their names in accelerate."""

    @field_validator("tokens_per_pack", mode="before")
    @classmethod
    def _null_of_older_memories(cls, value: Any) -> Any:
        return 512 if value is None else value

    @field_validator("gpu_tokens_per_pack")
    @classmethod
    def _some_columns(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"must be auto or at least 1, got {value}")
        return value


class EvaluateConfig(Frozen):
    """Measurements after each task."""

    _newer: ClassVar[frozenset[str]] = frozenset({"scores", "cells"})
    split: Literal["test", "validation"] = "test"
    """Held-out rows to score after each task; choose hyper-parameters on `validation`."""
    rows: int | None = Field(None, ge=1)
    """Maximum number of rows per task (the first of the split); None: all. 1 <= rows."""
    before: bool = True
    """Also score every task before learning the first one (needed for forward transfer)."""
    unseen: bool = False
    """After each task, also score tasks not yet learnt (the upper triangle of R)."""
    cells: Literal["all", "ends"] = "all"
    """Cells of R that `run` scores. `all`: after each task all learnt ones. `ends`: the new one alone, and all after the last."""
    generations: int = Field(0, ge=0)
    """Greedy answers per task, for its pass rate (if it has a rule) and the text metrics; 0: none. 0 <= generations."""
    text_metrics: tuple[str, ...] = ()
    """Scores of greedy answers against the chosen ones, by name or path/to/file.py:function; needs generations > 0."""
    scores: tuple[str, ...] = ()
    """Scores from outside to measure beside ours, by name or path/to/file.py:function."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest greedy answer, in tokens. 1 <= max_new_tokens."""
    bootstrap: int = Field(1000, ge=1)
    """Bootstrap resamples per interval. 1 <= bootstrap."""

    @model_validator(mode="after")
    def _answers_to_score(self) -> EvaluateConfig:
        names = list(self.text_metrics)
        if names and not self.generations:
            raise ValueError(f"text_metrics {names} score generated answers, but generations=0; set it to 1 or more")
        if self.cells == "ends" and self.unseen:
            raise ValueError("cells=ends leaves out cells that unseen=true asks for; drop one of them")
        for key, given in (("text_metrics", names), ("scores", list(self.scores))):
            if len(set(given)) != len(given):
                raise ValueError(f"{key} must be unique, got {given}")
        return self


class GuardConfig(Frozen):
    """General ability that no task trains, measured before the first task and after each task."""

    text: str | None = None
    """UTF-8 text file to measure perplexity on; may contain `~` and `${NAME}`. None: not measured."""
    window: int = Field(512, ge=2)
    """Tokens per window of the text, including context. 2 <= window, at most the base model's context."""
    stride: int = Field(256, ge=1)
    """New tokens scored in each window after the first. 1 <= stride < window."""
    tokens: int = Field(4096, ge=2)
    """Maximum number of tokens, from the start of the text. 2 <= tokens."""
    choices: str | None = None
    """File of multiple-choice questions: `question`, `choices`, `answer` (position from 0). None: not measured."""
    questions: int | None = Field(None, ge=1)
    """Maximum number of questions, from the first; None: all. 1 <= questions."""

    @model_validator(mode="after")
    def _something_to_measure(self) -> GuardConfig:
        if self.stride >= self.window:
            raise ValueError(f"stride must be below window={self.window}, got {self.stride}")
        for source, names in (("text", ("window", "stride", "tokens")), ("choices", ("questions",))):
            changed = [n for n in names if getattr(self, n) != type(self).model_fields[n].default]
            if changed and getattr(self, source) is None:
                raise ValueError(
                    f"{changed[0]}={getattr(self, changed[0])} has no effect without guard.{source}; "
                    f"set guard.{source} or remove {changed[0]}"
                )
        return self


class StrategyChoice(BaseModel):
    """Name of a strategy and its options, checked against the strategy's Config."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = "lifealign"

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, values: Any) -> Any:
        return current_names(strategy_name(values), values) if isinstance(values, Mapping) else values


def strategy_name(choice: Mapping[str, Any]) -> Any:
    """Name of the strategy that a mapping chooses, as written; the default if it names none."""
    return choice.get("name", StrategyChoice.model_fields["name"].default)


class RunConfig(Frozen):
    """Everything that determines a run."""

    _newer: ClassVar[frozenset[str]] = frozenset({"preset"})
    memory: str = "runs/memory"
    """Directory of the memory."""
    preset: Literal["lifelong", "paper"] = "paper"
    """Settings where none are given. A new memory or study that names none has `lifelong`; what was made before has `paper`."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed for row order, splits, the initial adapter and replay. 0 <= seed < 2^32."""
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig = DataConfig()
    strategy: StrategyChoice = StrategyChoice()
    sft: SftConfig = SftConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    guard: GuardConfig = GuardConfig()
    stream: StreamConfig | None = None
    """The tasks of `lifealign run`; `lifealign learn` needs none."""

    @model_validator(mode="after")
    def _margins_are_read(self) -> RunConfig:
        if self.data.reward_transform is not None and not (self.strategy.model_extra or {}).get("margin_scale"):
            raise ValueError(
                f"data.reward_transform={self.data.reward_transform} gives pairs their margins, which are not read without "
                "strategy.margin_scale; set it (losses dpo and hinge), or leave data.reward_transform out"
            )
        return self


Setting = Annotated[str, "a.b=c: a dotted key, and a YAML value"]


def load_config(
    path: Path | None,
    settings: Sequence[Setting] = (),
    strategy_configs: Mapping[str, type[BaseModel]] | None = None,
    base: Mapping[str, Any] | None = None,
    *,
    whole: bool = False,
) -> RunConfig:
    """Read a YAML file, apply ``KEY=VALUE`` settings to it and check everything.

    Args:
        path: the YAML file; None starts from `base` alone.
        settings: overrides; the last one wins.
        strategy_configs: strategy name -> its Config; if given, the strategy's options are checked.
        base: values that the file overrides.
        whole: `base` is a whole configuration, in which no preset fills anything.

    Raises:
        ConfigError: lists every mistake, each with its file and key, the value and what is allowed.
    """
    where = str(path) if path else "settings"
    tree: dict[str, Any] = dict(base or {})
    if path is not None:
        tree = _overlay(tree, read_yaml(path), where)
    for setting in settings:
        key, equals, text = setting.partition("=")
        parts = key.split(".")
        if not equals or not all(parts) or len(parts) > DEEPEST:
            raise ConfigError(f"--set {shown(setting)}: expected KEY=VALUE, e.g. train.epochs=2")
        try:
            value = parse_yaml(text)
        except YamlError as error:
            raise ConfigError(f"--set {shown(setting)}: the value is not YAML: {error}") from None
        for part in reversed(parts):
            value = {part: value}
        tree = _overlay(tree, value, f"--set {setting}")
    if whole:
        return check_config(tree, where, strategy_configs)
    config = check_config(with_preset(tree), where, strategy_configs)
    # A preset's shape of the adapter counts as not given: an adapter that a memory begins with has its own.
    lora = LoraConfig.model_construct(_fields_set=set(tree.get("lora", {})), **dict(config.lora))
    return config.model_copy(update={"lora": lora})


def check_config(
    tree: Mapping[str, Any], where: str, strategy_configs: Mapping[str, type[BaseModel]] | None = None
) -> RunConfig:
    """Check a tree of plain values; see `load_config`."""
    mistakes: list[str] = []
    config: RunConfig | None = None
    choice = tree.get("strategy", {})
    if strategy_configs is not None and isinstance(choice, Mapping):
        name, options = (
            strategy_name(choice),
            {k: v for k, v in choice.items() if k != "name"},
        )
        if not isinstance(name, str) or name not in strategy_configs:
            hint = nearest(str(name), strategy_configs)
            mistakes.append(
                f"{where}: strategy.name: unknown strategy {name!r}{hint}; allowed: {', '.join(sorted(strategy_configs))}"
            )
        else:
            model: type[BaseModel] | None = None
            try:
                model = strategy_configs[name]
                chosen = model.model_validate(current_names(name, options, where))
                # Store every option in full with a memory, so that it does not depend on a later version's defaults.
                tree = {**tree, "strategy": {"name": name, **chosen.model_dump(mode="json")}}
            except ValidationError as error:
                assert model is not None
                mistakes += list(explain(error, where, model, ("strategy",)))
            except ConfigError as error:  # a registered strategy that cannot be loaded
                mistakes.append(f"{where}: strategy.name: {error}")
            except ValueError:
                pass  # an option under both of its names: `StrategyChoice` reports it below
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        mistakes += list(explain(error, where, RunConfig, ()))
    if mistakes or config is None:
        raise together(mistakes)
    return config


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Merge `above` over `below`; if the strategy changes, the options of the old one are dropped."""
    old, new = below.get("strategy"), above.get("strategy")
    if isinstance(old, Mapping) and isinstance(new, Mapping) and new.get("name", old.get("name")) != old.get("name"):
        below = {**below, "strategy": {}}
    if isinstance(new, Mapping):
        above = {**above, "strategy": _renamed(new, old if isinstance(old, Mapping) else {}, where)}
    return merge(below, above)


def _renamed(options: Mapping[str, Any], below: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Options under their current names, so that an old name and a new one override each other when merged."""
    try:
        return current_names(strategy_name({**below, **options}), options, where)
    except ValueError:
        return options  # both names in one place: `check_config` reports it with all other mistakes
