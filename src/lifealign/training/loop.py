"""The training loop: one stage (SFT or preference) of one task, on accelerate.

An optimizer step takes `pairs_per_step` pairs in an order that is a function of (seed, task, stage, epoch), whatever the
packing and the number of processes; its loss is the mean over exactly those pairs, the last, smaller step of an epoch
included. Gradients of the (small) trained tensors are summed over processes once per step, so no wrapper around the
model is needed and packed forwards may call its parts. Everything that the next step depends on is in a checkpoint:
trained tensors, Adam's moments, strategy state and one integer.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lifealign.core.config import SftConfig, TrainConfig
from lifealign.core.errors import TrainingError
from lifealign.core.progress import NullProgress, Progress
from lifealign.core.stopping import asked, held, stop_if_asked
from lifealign.data.tasks import Row
from lifealign.model.adapters import restore, trainable
from lifealign.model.batch import PairLogps
from lifealign.model.encoding import EncodedPair
from lifealign.model.frozen_linear import onednn_leads, use_onednn
from lifealign.model.logp_cache import pair_logps
from lifealign.model.logps import token_logps
from lifealign.model.packing import Pack, pack_pairs, same_prompt, split_by_budget, with_prefix
from lifealign.training.checkpoints import read_checkpoint, write_checkpoint
from lifealign.training.feedback import Feedback, RowTerms, StepTerms, reference_point
from lifealign.training.live_log import LiveLog
from lifealign.training.schedule import learning_rate, windows
from lifealign.training.sft_losses import with_loss
from lifealign.training.step_log import SUMS, Seen, step_means, sums_of
from lifealign.training.strategy import Step, Strategy

StageName = Literal["sft", "preference"]
LogLine = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage of a task's training.

    Attributes:
        name: `sft` trains on the chosen answers, `preference` on the pairs.
        windows: for each optimizer step, the positions in `pairs` that it takes.
        rates: for each optimizer step, its learning rate.
        pairs: encoded rows, and behind them those that `feedback.with_others` adds.
        reference: summed reference log-probs [N, 2] (chosen, rejected), float32, with `Objective.beyond`; of `sft`, in the first
            column, the log-prob per token that `sft_losses` compares with.
        losses_on: see `training.strategy.Step`.
        feedback: the rows of one answer that people judged.
        dropout: whether the adapter's dropout is on in its steps.
    """

    name: StageName
    windows: Sequence[Sequence[int]]
    rates: Sequence[float]
    pairs: Sequence[EncodedPair]
    reference: Tensor
    losses_on: Callable[[Sequence[Row]], Iterator[Tensor]]
    feedback: Feedback = field(default_factory=Feedback)
    dropout: bool = True

    def __post_init__(self) -> None:
        assert len(self.windows) == len(self.rates)


@dataclass
class Loop:
    """Settings and state shared by all stages of a task.

    Attributes:
        task: name, part of the seed of the row order.
        model: with the adapter attached.
        strategy: hooks.
        config: options.
        seed: of the run.
        shared_prefix: packed rows, or plain ones (see `logps.probe`).
        accelerator: device, processes, trackers.
        checkpoints: directory for checkpoints; None: none are written.
        progress: where to report.
        log: one line per optimizer step, of all stages.
        earlier_steps: optimizer steps of earlier tasks; trackers need a count that never falls.
        tokens_per_pack: columns of one forward; None: `train.tokens_per_pack`.
        sft: options of the SFT stage.
    """

    task: str
    model: nn.Module
    strategy: Strategy
    config: TrainConfig
    seed: int
    shared_prefix: bool
    accelerator: Accelerator
    checkpoints: Path | None = None
    progress: Progress = field(default_factory=NullProgress)
    log: list[LogLine] = field(default_factory=list)
    earlier_steps: int = 0
    tokens_per_pack: int | None = None
    sft: SftConfig = field(default_factory=SftConfig)

    def __post_init__(self) -> None:
        self.strategy.log = self.log

    def stage(
        self,
        name: StageName,
        epochs: int,
        peak: float,
        pairs: Sequence[EncodedPair],
        reference: Tensor,
        losses_on: Callable[[Sequence[Row]], Iterator[Tensor]],
        feedback: Feedback = Feedback(),  # noqa: B008
    ) -> Stage:
        """A stage of this task: whole passes over the pairs, at a rate that rises to `peak` and falls to 0.

        Args:
            name: see `Stage`.
            epochs: passes over the pairs. 0 <= epochs.
            peak: highest learning rate. 0 < peak.
            pairs: see `Stage`.
            reference: see `Stage`.
            losses_on: see `Stage`.
            feedback: see `Stage`.
        """
        rows = len(pairs) - len(feedback.others)
        used = [i for i in range(rows) if name == "preference" or pairs[i].chosen]
        together = name == "preference" and self.strategy.objective.by_prompt
        units = same_prompt(pairs, used) if together else [[i] for i in used]
        steps = windows(self.seed, self.task, name, epochs, units, self.config.pairs_per_step)
        rates = [learning_rate(i, len(steps), self.config.warmup, peak) for i in range(len(steps))]
        return Stage(name, steps, rates, pairs, reference, losses_on, feedback)


def train_stage(loop: Loop, stage: Stage) -> None:
    """Train one stage from the model's current weights, or resume from its last checkpoint.

    Raises:
        TrainingError: a loss or gradient is not finite; names the step and the rows. Checkpoints are kept.
        KeyboardInterrupt: a signal asked the process to stop; what is learnt so far is in a checkpoint.
    """
    parameters = trainable(loop.model)
    optimizer = torch.optim.AdamW(parameters.values(), weight_decay=loop.config.weight_decay, betas=(0.9, 0.999))
    optimizer.zero_grad(set_to_none=True)  # a stage that was stopped may have left gradients behind
    steps = stage.windows
    first = _resume(loop, stage, parameters, optimizer)
    done = sum(map(len, steps[:first]))
    title = f"{loop.task}: {stage.name}"
    directory = loop.checkpoints if loop.accelerator.is_main_process else None
    live = LiveLog(directory, {"task": loop.task, "steps": len(steps)}, loop.log, loop.progress)
    with held(), live, loop.progress.stage(title, sum(map(len, steps)), "pairs", done=done) as shown:
        for index in range(first, len(steps)):
            started = time.perf_counter()
            rate = stage.rates[index]
            for group in optimizer.param_groups:
                group["lr"] = rate
            terms = _step_terms(loop, stage, steps[index])
            # Set for every step: a reference computed in between (`Step.losses_on`) leaves dropout off.
            with _dropout(loop.model, stage.dropout), _dropout_seed(loop, stage, index):
                line = _step(loop, stage, parameters, steps[index], index, terms)
            before = {name: p.detach().clone() for name, p in parameters.items()}
            optimizer.step()
            seen = Step(loop.model, parameters, stage.losses_on, index, stage.name, before, line)
            loop.strategy.adjust_update(seen)
            optimizer.zero_grad(set_to_none=True)
            seconds = time.perf_counter() - started
            line |= {"learning_rate": rate, "seconds": seconds, "pairs_per_second": len(steps[index]) / seconds}
            loop.log.append(line)
            live.add(line)
            if loop.config.trackers:
                loop.accelerator.log(
                    {f"{loop.task}/{stage.name}/{k}": v for k, v in line.items() if isinstance(v, float)},
                    step=loop.earlier_steps + len(loop.log),
                )
            if (index + 1) % loop.config.checkpoint_every == 0 or index + 1 == len(steps) or asked():
                _checkpoint(loop, stage, parameters, optimizer, index + 1)
            stop_if_asked()
            shown.advance(len(steps[index]), loss=line["loss"])


def _step_terms(loop: Loop, stage: Stage, window: Sequence[int]) -> StepTerms:
    """What the loss of feedback needs of the whole step, however it is split into packs and processes; without dropout."""
    options = loop.strategy.objective.config
    index = stage.feedback.asked(stage.pairs, window, options.unpaired_loss) if stage.name == "preference" else []
    if not index:
        return StepTerms(weights=stage.feedback.weights)
    pairs = [stage.pairs[i] for i in index]
    policy_K2 = pair_logps(
        loop.model,
        with_prefix(pairs, loop.strategy.prefix([p.prompt for p in pairs])),
        shared_prefix=loop.shared_prefix,
        tokens_per_pack=loop.tokens_per_pack or loop.config.tokens_per_pack,
        accelerator=loop.accelerator,
    )
    point = reference_point(options, options.beta, policy_K2, stage.reference[index], pairs)
    return StepTerms(point, stage.feedback.weights)


def _step(
    loop: Loop,
    stage: Stage,
    parameters: Mapping[str, nn.Parameter],
    window: Sequence[int],
    index: int,
    terms: StepTerms,
) -> LogLine:
    """Put the gradients of one optimizer step, the loss's clipped, into ``.grad``, and return the step's log line."""
    accelerator, config = loop.accelerator, loop.config
    chosen_only = stage.name == "sft"
    budget = loop.tokens_per_pack or config.tokens_per_pack
    whole = not chosen_only and loop.strategy.objective.by_prompt
    groups = list(split_by_budget(stage.pairs, window, budget, loop.shared_prefix, chosen_only, whole))
    # On the device, and read once a step: a number read in between would let a GPU wait for the next forward.
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=accelerator.device)
    bound = torch.zeros((), device=accelerator.device)
    response_tokens = sum(stage.pairs[i].chosen_tokens for i in window)
    for group in groups[accelerator.process_index :: accelerator.num_processes]:
        pack = _policy_pack(loop, stage, group, chosen_only)
        seen: Seen | Tensor | None
        if chosen_only:
            loss, seen = _sft_loss(loop, stage, pack, group, (response_tokens, len(window)))
        else:
            loss, seen, skipped = _preference_loss(loop, stage, pack, group, len(window), terms)
            bound = torch.maximum(bound, skipped)
        if loss.requires_grad:
            # Not by accelerate, which divides by its launcher's accumulation setting; ours is in the loss.
            loss.backward()  # type: ignore[no-untyped-call]
        sums += sums_of(seen, loss.detach(), len(group))
    for parameter in parameters.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if accelerator.num_processes > 1:
            parameter.grad = accelerator.reduce(parameter.grad, "sum")
    sums = accelerator.reduce(sums, "sum") if accelerator.num_processes > 1 else sums
    line: LogLine = {"stage": stage.name, "step": index + 1, **step_means(sums, chosen_only)}
    if not chosen_only and loop.strategy.normalises_weights:
        # Exact for any packing: the step's mean weight is known after all its pairs, and divides them all.
        for parameter in parameters.values():
            assert parameter.grad is not None
            parameter.grad /= max(line["focal_weight"], 1e-12)
    step = Step(loop.model, parameters, stage.losses_on, index, stage.name, line=line)
    loop.strategy.adjust_gradients(step)
    norm = float(accelerator.clip_grad_norm_(list(parameters.values()), config.max_grad_norm))
    line["grad_norm"] = norm
    penalty = loop.strategy.penalty(loop.model)
    if penalty.requires_grad:
        penalty.backward()  # type: ignore[no-untyped-call]
        line["penalty"] = float(penalty.detach())
    if config.skip_weight_below > 0 and not chosen_only:
        line["skipped_gradient_bound"] = float(bound)
    if not all(math.isfinite(value) for value in (line["loss"], norm, line.get("penalty", 0.0))):
        raise TrainingError(
            f"task {loop.task!r}: the loss ({line['loss']}), its gradient's norm ({norm}) or the strategy's penalty "
            f"({line.get('penalty', 0.0)}) is not finite at step {index + 1} of stage "
            f"{stage.name}; lower the learning rate ({max(stage.rates):g}) or look at the rows of this step: "
            f"{', '.join(stage.pairs[i].digest[:12] for i in window[:4])} ...; the memory is unchanged"
        )
    return line


def _policy_pack(loop: Loop, stage: Stage, group: Sequence[int], chosen_only: bool) -> Pack:
    """The pairs as the policy sees them: with the strategy's virtual tokens, if it has any."""
    pairs = [stage.pairs[i] for i in group]
    shown = with_prefix(pairs, loop.strategy.prefix([p.prompt for p in pairs]))
    return pack_pairs(shown, range(len(shown)), loop.shared_prefix, chosen_only).to(loop.accelerator.device)


def _sft_loss(
    loop: Loop, stage: Stage, pack: Pack, group: Sequence[int], step: tuple[int, int]
) -> tuple[Tensor, Tensor | None]:
    """Mean loss per response token over the optimizer step (this pack's part of it), and the answers' weights [B], if any.

    `step` has the response tokens and the answers of the whole step.
    """
    batch, weight = replace(pack.batch, token_T=token_logps(loop.model, pack).token_T), None
    if loop.sft.loss != "nll":
        scored = [stage.pairs[i].chosen[stage.pairs[i].chosen_context :] for i in group]
        # The references' log-probs per token are sums over the same ids, the end of the answer among them.
        assert pack.target_T.tolist() == [token for answer in scored for token in answer]
        reference_B = stage.reference[list(group), 0].to(pack.target_T.device)
        batch, weight = with_loss(batch, loop.sft, reference_B, *step)
    return loop.strategy.sft_loss(batch).sum() / step[0], weight


def _preference_loss(
    loop: Loop, stage: Stage, pack: Pack, group: Sequence[int], window: int, terms: StepTerms
) -> tuple[Tensor, Seen, Tensor]:
    """This pack's part of the step's mean loss, its values for the log, and the largest |dL/dr| left out."""
    tokens = token_logps(loop.model, pack)
    policy, beyond = tokens.pairs(), loop.strategy.objective.beyond
    weighted = policy if beyond == 1 else tokens.pairs(beyond)
    values = stage.reference[list(group)].to(policy.chosen.device)
    reference = PairLogps(values[:, 0], values[:, 1])
    batch = replace(pack.batch, token_T=tokens.token_T)
    lengths, rows = (batch.chosen_lengths_B, batch.rejected_lengths_B), RowTerms.of_batch(batch, terms)
    objective = loop.strategy.objective(weighted, reference, *lengths, rows)
    loss_B = loop.strategy.loss(batch, policy, reference, objective)
    skip = objective.weight < loop.config.skip_weight_below
    bound = torch.zeros((), device=loss_B.device)
    loss = loss_B.sum() / window
    if loop.config.skip_weight_below > 0 and bool(skip.any()):
        bound = loop.strategy.objective.margin_gradient(objective.margin[skip]).abs().max()
        # Skipped pairs have no gradient; a pack with no other pairs is not run backward at all.
        loss = loss_B[~skip].sum() / window + loss_B[skip].detach().sum() / window
        loss = loss.detach() if bool(skip.all()) else loss
    seen = Seen(
        objective.margin,
        objective.weight,
        weighted.chosen.detach() - reference.chosen,
        weighted.rejected.detach() - reference.rejected,
        batch.chosen_lengths_B,
        batch.rejected_lengths_B,
        skip.float(),
        torch.tensor([float(kind != "demonstration") for kind in batch.kinds], device=skip.device),
    )
    return loss, seen, bound


@contextmanager
def _dropout(model: nn.Module, on: bool) -> Iterator[None]:
    """Set the adapter's dropout for a training step; the base model's own dropout is never used."""
    model.eval()
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train(on)
    try:
        yield
    finally:
        model.eval()


@contextmanager
def _dropout_seed(loop: Loop, stage: Stage, step: int) -> Iterator[None]:
    """Seed torch's own generator for one step, so that no state need be kept; only dropout draws from it."""
    text = f"{loop.seed}|{loop.task}|{stage.name}|{step}|{loop.accelerator.process_index}".encode()
    with torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1)
        yield


def _checkpoint(
    loop: Loop, stage: Stage, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Write a checkpoint; its tensors are the same in all processes, so the first one writes for all."""
    if loop.checkpoints is not None and loop.accelerator.is_main_process:
        tensors = {f"adapter/{name}": p.detach() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            tensors |= {f"optimizer/{name}/{key}": value for key, value in optimizer.state[parameter].items()}
        tensors |= {f"strategy/{name}": value for name, value in loop.strategy.state_dict().items()}
        tensors["reference"] = stage.reference
        state = {"stage": stage.name, "step": step, "log": loop.log, "tokens_per_pack": loop.tokens_per_pack}
        state["onednn"] = onednn_leads()
        write_checkpoint(loop.checkpoints, {k: v.cpu().contiguous() for k, v in tensors.items()}, state)
    loop.accelerator.wait_for_everyone()


def stage_reached(checkpoints: Path | None) -> tuple[StageName, Tensor] | None:
    """Name and reference log-probs of the stage of a task's last checkpoint; None without one."""
    found = read_checkpoint(checkpoints) if checkpoints is not None else None
    return None if found is None else (found[1]["stage"], found[0]["reference"])


def _resume(loop: Loop, stage: Stage, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Restore the last checkpoint if it is of this stage; returns the number of steps done."""
    found = read_checkpoint(loop.checkpoints) if loop.checkpoints is not None else None
    if found is None or found[1]["stage"] != stage.name:
        return 0
    tensors, state = found
    loop.strategy.load_state_dict(_part(tensors, "strategy/"))
    loop.strategy.mount(loop.model)
    restore(loop.model, _part(tensors, "adapter/"))
    for name, parameter in parameters.items():
        # AdamW keeps its step count on the CPU, the moments on the parameter's device.
        optimizer.state[parameter] = {
            key: value if key == "step" else value.to(parameter.device)
            for key, value in _part(tensors, f"optimizer/{name}/").items()
        }
    loop.log[:] = state["log"]
    # Rows cut otherwise round otherwise in half precision, and a measurement may come out differently.
    loop.tokens_per_pack = state.get("tokens_per_pack") or loop.tokens_per_pack
    if "onednn" in state:
        use_onednn(state["onednn"])
    return int(state["step"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
