"""Computations with a loaded model: log-probs, losses, divergences, features. Strategies see it as `ModelView`.

Shapes: N rows, T response tokens, D model width, I inputs of an adapted module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import PreTrainedModel

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.core.progress import Progress
from lifealign.data.tasks import Row
from lifealign.model.adapters import adapter_off, causal_lm, dropout_off, holding, snapshot
from lifealign.model.base import BaseModel
from lifealign.model.batch import PairLogps
from lifealign.model.compiling import compile_layers, is_compiled, leave_uncompiled
from lifealign.model.encoding import EncodedPair, Encoder
from lifealign.model.logp_cache import ReferenceCache, adapter_sha256, cached_logps, pair_logps
from lifealign.model.logps import kl_to_base, probe, token_distributions, token_divergence, token_logps
from lifealign.model.pack_budget import SIZES, Measured, best, measure_budget
from lifealign.model.packing import Pack, cost, pack_pairs, split_by_budget, with_prefix
from lifealign.training.context import behind
from lifealign.training.feedback import RowTerms, StepTerms, reference_point, with_others
from lifealign.training.strategy import Strategy

COMPILE_FROM = 120.0
"""Seconds of training, as measured without, from which compiling pays: it takes 20 to 60, and then halves the rest."""
FEATURE_ROWS = 16
"""Prompts of similar length in one forward of `features`."""


class LoadedView:
    """The model of a session, with the adapter and the strategy that trains it.

    Args:
        base: the frozen base model.
        model: with the strategy's parts attached.
        strategy: for its loss and its virtual tokens.
        encoder: rows to token ids.
        config: options.
        accelerator: device and processes.
        cache: of log-probs.
        progress: where to report.

    Attributes:
        anchor: trained tensors of the adapter that the memory began with, see `reference`; empty: none.
    """

    def __init__(
        self,
        base: BaseModel,
        model: nn.Module,
        strategy: Strategy,
        encoder: Encoder,
        config: RunConfig,
        accelerator: Accelerator,
        cache: ReferenceCache,
        progress: Progress,
    ) -> None:
        self.base, self.model, self.strategy, self.encoder = base, model, strategy, encoder
        self.config, self.accelerator, self.cache, self.progress = config, accelerator, cache, progress
        self.anchor: Mapping[str, Tensor] = {}
        self._shared_prefix: bool | None = None
        self._budget: Measured | None = None

    def shared_prefix(self, pairs: Sequence[EncodedPair]) -> bool:
        """Whether packed rows are used: as configured, after a probe on the model at hand (once)."""
        setting = self.config.train.shared_prefix
        if setting == "never" or not pairs:
            return False
        if self._shared_prefix is None:
            reason = probe(self.model, pairs)
            if reason is not None and setting == "always":
                raise ConfigError(f"train.shared_prefix=always, but {reason}; allowed for this model: auto, never")
            if reason is not None:
                self.progress.say(f"{reason}; falling back to plain rows (slower, same results)")
            self._shared_prefix = reason is None
        return self._shared_prefix

    def tokens_per_pack(self, pairs: Sequence[EncodedPair]) -> int:
        """Columns of one forward: as configured for the device; on a GPU measured (once) if that is `auto`."""
        train, device = self.config.train, self.accelerator.device
        if device.type != "cuda":
            return train.tokens_per_pack
        if train.gpu_tokens_per_pack != "auto":
            return train.gpu_tokens_per_pack
        if not pairs or not self.shared_prefix(pairs):
            return SIZES[0]
        if self._budget is None:
            found = measure_budget(self.model, self.prefixed(pairs), device)
            self._budget = broadcast_object_list([best(found)])[0]  # all processes must cut rows alike
            shown = ", ".join(f"{m.columns} ({m.rate:,.0f} a second, {m.memory:.0%} of the memory)" for m in found)
            self.progress.say(f"columns of a packed row: {self._budget.columns}, by a measurement: {shown}")
        # Compiled layers keep less than half of what the others do for their backward.
        return self._budget.columns * (2 if is_compiled(self.base.model) else 1)

    def compile_layers(self, pairs: Sequence[EncodedPair], epochs: int) -> None:
        """On a GPU, compile the decoder layers before `epochs` over `pairs`, as `train.compile` says; once for all tasks."""
        setting, lm = self.config.train.compile, self.base.model
        if (
            self.accelerator.device.type != "cuda"
            or setting == "never"
            or is_compiled(lm)
            or not self.shared_prefix(pairs)
        ):
            return
        if setting == "auto":
            self.tokens_per_pack(pairs)
            columns = epochs * sum(cost(pair, shared_prefix=True) for pair in pairs)
            if self._budget is None or columns / self._budget.rate < COMPILE_FROM:
                return
        compile_layers(lm)
        reason = probe(self.model, pairs)
        if reason is not None:
            leave_uncompiled(lm)
            if setting == "always":
                raise ConfigError(
                    f"train.compile=always, but compiled layers cannot be used: {reason}; set it to auto or never"
                )
        self.progress.say(
            "decoder layers: compiled by torch.compile" if reason is None else f"decoder layers: not compiled: {reason}"
        )

    def prefixed(self, pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
        """The pairs as the policy sees them."""
        return with_prefix(pairs, self.strategy.prefix([p.prompt for p in pairs]))

    def logps(self, pairs: Sequence[EncodedPair], *, base: bool, title: str, beyond: float = 1.0) -> Tensor:
        """Summed log-probs [N, 2] under the model as it is, or (`base`) with the adapter off; through the cache.

        `beyond` is that of `TokenLogps.pairs`; the objective's own for its reference.
        """
        state = {} if base else {f"state/{name}": tensor for name, tensor in self.strategy.state_dict().items()}
        adapter = "off" if base else adapter_sha256({**snapshot(self.model), **state})
        if adapter != "off":  # the same tensors at another scale, or used in another way, are another policy
            adapter += f" x {self.config.lora.scale} {self.config.strategy.model_dump_json()}"
        with adapter_off(self.model) if adapter == "off" else nullcontext():
            return cached_logps(
                self.model,
                pairs if base else self.prefixed(pairs),
                cache=self.cache,
                base=self.base.identity,
                adapter=adapter,
                shared_prefix=self.shared_prefix(pairs),
                tokens_per_pack=self.tokens_per_pack(pairs),
                accelerator=self.accelerator,
                progress=self.progress,
                title=title,
                beyond=beyond,
            )

    def reference(self, pairs: Sequence[EncodedPair], *, title: str, beyond: float = 1.0) -> Tensor:
        """`logps` of the model before any task was learnt here: the base model, with the adapter that the memory began with."""
        if not self.anchor:
            return self.logps(pairs, base=True, title=title, beyond=beyond)
        with holding(self.model, self.anchor):
            return self.logps(pairs, base=False, title=title, beyond=beyond)

    def in_context(self, pairs: Sequence[EncodedPair], rows: Sequence[Row]) -> Sequence[EncodedPair]:
        """The pairs as the objective's reference sees them, see `context.behind`; the same without `reference_context`."""
        text = getattr(self.strategy.objective.config, "reference_context", None)
        return pairs if text is None else behind(text, pairs, rows, self.encoder, self.base.positions)

    def usable(self, rows: Sequence[Row]) -> list[Row]:
        """See `training.strategy.ModelView`."""
        return [rows[p.position] for p in self._encode(rows)]

    def prompts(self, rows: Sequence[Row]) -> list[tuple[int, ...]]:
        """See `training.strategy.ModelView`."""
        return [tuple(p.prompt) for p in self._encode(rows)]

    def loss_on(self, rows: Sequence[Row]) -> Tensor:
        """See `training.strategy.ModelView`."""
        return torch.stack(list(self.losses_on(rows))).sum()

    def losses_on(self, rows: Sequence[Row]) -> Iterator[Tensor]:
        """Parts that add up to `loss_on(rows)`, each with a graph: one for each pack of `train.tokens_per_pack`."""
        encoded, _ = self.encoder.encode(rows)
        objective = self.strategy.objective
        beyond, options = objective.beyond, objective.config
        pairs, feedback = with_others(encoded, options)
        seen = self.in_context(pairs, rows)
        reference_N2 = self.reference(seen, title="reference", beyond=beyond).to(self.accelerator.device)
        asked = feedback.asked(pairs, range(len(encoded)), options.unpaired_loss)
        policy_K2 = self._plain_logps([pairs[i] for i in asked])
        point = reference_point(options, options.beta, policy_K2, reference_N2[asked].cpu(), [pairs[i] for i in asked])
        step = StepTerms(point, feedback.weights)
        for group in self._split(encoded, by_prompt=objective.by_prompt):
            pack = self._pack([pairs[i] for i in group])
            with dropout_off(self.model):
                policy = token_logps(self.model, pack).pairs(beyond)
            reference = PairLogps(*reference_N2[group].unbind(1))
            # The plain objective: terms that a strategy adds for its own training rows have no meaning for others.
            lengths = pack.batch.chosen_lengths_B, pack.batch.rejected_lengths_B
            losses = objective(policy, reference, *lengths, RowTerms.of_batch(pack.batch, step))
            yield losses.loss.sum() / len(encoded)

    def sft_losses_on(self, rows: Sequence[Row]) -> Iterator[Tensor]:
        """Parts that add up to the mean NLL per response token of the chosen answers, without dropout; none without one."""
        pairs = [pair for pair in self.encoder.encode(rows)[0] if pair.chosen]
        tokens = sum(pair.chosen_tokens for pair in pairs)
        for group in self._split(pairs, chosen_only=True):
            pack = self._pack([pairs[i] for i in group], chosen_only=True)
            with dropout_off(self.model):
                token_T = token_logps(self.model, pack).token_T
            yield -token_T.sum() / tokens

    def kl_to_base(self, pairs: Sequence[EncodedPair]) -> float:
        """Mean over the response tokens of KL(policy || base model), nats."""
        base = pack_pairs(pairs, range(len(pairs)), self.shared_prefix(pairs)).to(self.accelerator.device)
        return kl_to_base(self.model, self._pack(pairs), base)

    def pair_logps(self, rows: Sequence[Row], weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """See `training.strategy.ModelView`."""
        pairs = self._encode(rows)
        found = torch.full((len(rows), 2), torch.nan)
        with self._with(weights):
            values = self._plain_logps(pairs)
        found[[p.position for p in pairs]] = values
        return found

    def _plain_logps(self, pairs: Sequence[EncodedPair]) -> Tensor:
        """Summed log-probs [N, 2] under the model as it is, without the cache."""
        return pair_logps(
            self.model,
            self.prefixed(pairs),
            shared_prefix=self.shared_prefix(pairs),
            tokens_per_pack=self.tokens_per_pack(pairs),
            accelerator=self.accelerator,
        )

    @torch.no_grad()
    def chosen_logps(self, pairs: Sequence[EncodedPair], title: str) -> list[float]:
        """Summed log-prob of each chosen answer under the model as it is, nats; nothing is cached."""
        found: list[float] = []
        with self.progress.stage(title, len(pairs), "sequences") as stage:
            for group in self._split(pairs, chosen_only=True):
                found += (
                    token_logps(self.model, self._pack([pairs[i] for i in group], chosen_only=True)).sums().tolist()
                )
                stage.advance(len(group))
        return found

    def distributions(self, pairs: Sequence[EncodedPair]) -> Iterator[Tensor]:
        """Log softmax [T, V] float32 at each token of each chosen answer under the model as it is, on the CPU."""
        for group in self._split(pairs, chosen_only=True):
            pack = self._pack([pairs[i] for i in group], chosen_only=True)
            yield from (found.cpu() for found in token_distributions(self.model, pack))

    @torch.no_grad()
    def token_logps(self, rows: Sequence[Row], weights: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """See `training.strategy.ModelView`."""
        found = [torch.full((1,), torch.nan)] * len(rows)
        with self._with(weights):
            for pairs in self._groups(rows):
                pack = self._pack(pairs)
                sizes = [p.chosen_tokens + p.rejected_tokens for p in pairs]
                parts = torch.split(token_logps(self.model, pack).token_T.cpu(), sizes)
                for pair, part in zip(pairs, parts, strict=True):
                    found[pair.position] = part.clone()
        return found

    def divergence(self, rows: Sequence[Row], weights: Mapping[str, Tensor]) -> Tensor:
        """See `training.strategy.ModelView`."""
        pairs = self._encode(rows)
        missing = torch.full((len(rows),), torch.nan, device=self.accelerator.device)
        if not pairs:
            return missing
        pack = self._pack(pairs, chosen_only=True)
        parts = torch.split(token_divergence(self.model, pack, weights), list(pack.sizes))
        means = dict(zip([p.position for p in pairs], [part.mean() for part in parts], strict=True))
        return torch.stack([means.get(i, missing[i]) for i in range(len(rows))])

    @torch.no_grad()
    def features(self, prompts: Sequence[Sequence[int]], depth: float = 1.0) -> Tensor:
        """See `training.strategy.ModelView`."""
        lm = causal_lm(self.model)
        device = self.accelerator.device
        found: dict[int, Tensor] = {}
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        with adapter_off(self.model):
            for start in range(0, len(order), FEATURE_ROWS):
                chosen = order[start : start + FEATURE_ROWS]
                width = max(len(prompts[i]) for i in chosen)
                ids = torch.zeros(len(chosen), width, dtype=torch.long)
                mask = torch.zeros_like(ids)
                for row, i in enumerate(chosen):
                    ids[row, : len(prompts[i])] = torch.tensor(list(prompts[i]))
                    mask[row, : len(prompts[i])] = 1
                hidden = self._hidden(lm, ids.to(device), mask.to(device), depth).float()
                weight = mask.to(device)[..., None].float()
                found |= zip(chosen, ((hidden * weight).sum(1) / weight.sum(1)).cpu(), strict=True)
        return torch.stack([found[i] for i in range(len(prompts))])

    def row_features(self, rows: Sequence[Row]) -> Tensor:
        """See `training.strategy.ModelView`."""
        pairs = self._encode(rows)
        values = self.features([(*p.prompt, *(p.chosen or p.rejected)) for p in pairs])
        found = torch.full((len(rows), values.shape[1]), torch.nan)
        found[[p.position for p in pairs]] = values
        return found

    @staticmethod
    def _hidden(lm: PreTrainedModel, ids: Tensor, mask: Tensor, depth: float) -> Tensor:
        """Hidden states [rows, columns, D] at a share of the depth; at 1.0 the last ones, as the model hands them out."""
        if depth == 1.0:
            last: Tensor = lm.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            return last
        found = lm.base_model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
        states: Sequence[Tensor] = found.hidden_states  # of the embeddings, and after each layer
        return states[round(depth * (len(states) - 1))]

    def texts(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """See `training.strategy.ModelView`."""
        return [self.encoder.prompt_text(ids) for ids in prompts]

    @torch.no_grad()
    def input_moments(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """See `training.strategy.ModelView`; modules that read the same tensor share the result."""
        sums: dict[str, Tensor] = {}
        reads: dict[str, str] = {}  # module -> the first one that reads the same tensor
        last: tuple[str, Tensor] = ("", torch.empty(0))
        count = 0
        columns = torch.ones(0, dtype=torch.bool)  # of the current forward: those that hold a token
        groups = list(self._groups(rows))  # before the hooks, because it may run the model on some rows

        def collect(name: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                nonlocal last
                if inputs[0] is last[1]:
                    reads[name] = last[0]
                    return
                reads[name], last = name, (name, inputs[0])
                read = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
                x = read[: len(columns)][columns].double().cpu()  # on a GPU, padding is behind
                sums[name] = sums.get(name, torch.zeros(())) + x.T @ x

            return hook

        handles = [
            module.register_forward_pre_hook(collect(name.removeprefix("base_model.model.")))
            for name, module in self.model.named_modules()
            if hasattr(module, "lora_A")
        ]
        try:
            for pairs in groups:
                pack = self._pack(pairs)
                columns = (torch.ones_like(pack.input_ids) if pack.mask is None else pack.mask).reshape(-1).bool()
                token_logps(self.model, pack)
                count += int(columns.sum())
        finally:
            for handle in handles:
                handle.remove()
        means = {name: total / max(count, 1) for name, total in sums.items()}
        return {name: means[first] for name, first in reads.items()}

    @contextmanager
    def _with(self, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
        with nullcontext() if weights is None else holding(self.model, weights):
            yield

    def _encode(self, rows: Sequence[Row]) -> list[EncodedPair]:
        return self.encoder.encode(rows, allow_none=True)[0]

    def _groups(self, rows: Sequence[Row]) -> Iterator[list[EncodedPair]]:
        pairs = self._encode(rows)
        for group in self._split(pairs):
            yield [pairs[i] for i in group]

    def _split(
        self, pairs: Sequence[EncodedPair], chosen_only: bool = False, by_prompt: bool = False
    ) -> Iterable[list[int]]:
        """Indices of the pairs of each forward."""
        budget, shared = self.tokens_per_pack(pairs), self.shared_prefix(pairs)
        return split_by_budget(pairs, range(len(pairs)), budget, shared, chosen_only, by_prompt)

    def _pack(self, pairs: Sequence[EncodedPair], chosen_only: bool = False) -> Pack:
        shown = self.prefixed(pairs)
        pack = pack_pairs(shown, range(len(shown)), self.shared_prefix(pairs), chosen_only)
        return pack.to(self.accelerator.device)
