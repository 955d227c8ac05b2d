"""Response log-probs of packed rows: one forward, attention along each branch only, response positions only.

Shapes: L columns of a packed row, T response tokens, D model width, V vocabulary, H heads, B pairs.

Two parts of a usual forward are left out: attention between columns that do not see each other (no dense
[L, L] mask is built: every segment attends to its own path, see `packing`), and logits of columns that predict no response
token. The result is exact; `probe` compares it with plain rows on the model at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lifealign.model.adapters import adapter_off, causal_lm, dropout_off, holding
from lifealign.model.batch import PairLogps
from lifealign.model.compiling import compiled_layers, is_compiled
from lifealign.model.encoding import EncodedPair
from lifealign.model.frozen_linear import product
from lifealign.model.packed_attention import packed_attention
from lifealign.model.packing import Pack, cost, pack_pairs, padded
from lifealign.model.rounding import in_float32, rms, widened
from lifealign.model.row_state import carries_state

VOCABULARY_CHUNK = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Logits held at once (elements, float32: 64 MiB, 1 GiB); the chunk of positions follows from the vocabulary's size."""

PADDING = 7
"""Columns of padding that are added to plain rows to see how far another padding moves their log-probs."""
SLACK = 1.3
"""Packed rows may be this much further from float32 than plain rows, in the root mean square over tokens: what two ways of
rounding differ by on few tokens (measured: 0.76 to 1.08; leaks through convolutions, scans and delta rules: 1.09 to 22)."""
EXACT = 1e-4
"""Largest mean difference that counts as none in float32, in nats per response token (rounding: below 1e-5)."""


def _chunk(weight_VD: Tensor, logits: int = 1) -> int:
    """Positions whose logits, `logits` times over, are held at once."""
    held = VOCABULARY_CHUNK.get(weight_VD.device.type, VOCABULARY_CHUNK["cpu"])
    return max(1, held // (logits * weight_VD.shape[0]))


class _TokenLogps(torch.autograd.Function):
    """log softmax(h W^T + b)[target], float32, in chunks of positions, for a vocabulary matrix that is not trained.

    The gradient with respect to h, W[target] - softmax(h W^T) W, is formed while the chunk's logits are at hand, so the
    [T, V] logits are not kept and the product is not repeated in backward.
    """

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_T: Tensor) -> Tensor:
        need = ctx.needs_input_grad[0]
        logps_T = torch.empty(len(target_T), dtype=torch.float32, device=hidden_TD.device)
        grad_TD = torch.empty_like(hidden_TD) if need else None
        rows = _chunk(weight_VD)
        for start in range(0, len(target_T), rows):
            part = slice(start, start + rows)
            # In place: each pass over the logits, and each copy of them, takes as long as a layer's attention.
            scores = product(hidden_TD[part], weight_VD, bias_V).float()
            scores -= scores.amax(-1, keepdim=True)
            target = scores.gather(1, target_T[part, None])
            total = scores.exp_().sum(-1, keepdim=True)
            logps_T[part] = (target - total.log()).squeeze(1)
            if grad_TD is not None:
                probabilities = scores.div_(total).to(weight_VD.dtype)
                grad_TD[part] = weight_VD[target_T[part]] - product(probabilities, weight_VD.t())
        ctx.save_for_backward(grad_TD)
        return logps_T

    @staticmethod
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_TD,) = ctx.saved_tensors
        return grad_TD * grad_T[:, None].to(grad_TD.dtype), None, None, None


@dataclass(frozen=True)
class TokenLogps:
    """Log-probs of the response tokens of one pack: `token_T` [T] float32, answers one after another by `sizes`."""

    token_T: Tensor
    sizes: tuple[int, ...]

    def sums(self) -> Tensor:
        """Summed log-prob of each answer, [answers], float32."""
        return torch.stack([part.sum() for part in torch.split(self.token_T, list(self.sizes))])

    def pairs(self, beyond: float = 1.0) -> PairLogps:
        """Summed log-probs as pairs; the pack must hold both answers of every pair.

        Args:
            beyond: weight of the longer answer's tokens beyond the length of the shorter one, in [0, 1] (LD-DPO,
                arXiv 2409.06411). An answer alone has full weight.
        """
        if beyond == 1:
            sums = self.sums()
            return PairLogps(sums[0::2], sums[1::2])
        parts = torch.split(self.token_T, list(self.sizes))
        found = []
        for chosen, rejected in zip(parts[0::2], parts[1::2], strict=True):
            both = min(len(chosen), len(rejected)) or max(len(chosen), len(rejected))
            found += [part[:both].sum() + beyond * part[both:].sum() for part in (chosen, rejected)]
        return PairLogps(torch.stack(found[0::2]), torch.stack(found[1::2]))


def token_logps(model: nn.Module, pack: Pack) -> TokenLogps:
    """Log-probs of all response tokens of a pack under `model`, in float32, with a gradient if grad is enabled.

    A packed row goes through the model's own decoder with `packed_attention`, and only response positions are
    multiplied by the vocabulary matrix. A plain batch (the fall-back) takes the model's ordinary forward and its logits.
    """
    lm = causal_lm(model)
    if not pack.segments:
        picked_TV = _response_logits(lm, pack)
        token_T = picked_TV.gather(1, pack.target_T[:, None]).squeeze(1) - torch.logsumexp(picked_TV, -1)
        return TokenLogps(token_T, pack.sizes)
    head = lm.get_output_embeddings()
    assert head is not None
    hidden_TD = _response_hidden(lm, pack).to(head.weight.dtype)
    logps_T: Tensor = _TokenLogps.apply(  # type: ignore[no-untyped-call]
        hidden_TD, head.weight, getattr(head, "bias", None), pack.target_T
    )
    return TokenLogps(logps_T, pack.sizes)


@torch.no_grad()
def token_distributions(model: nn.Module, pack: Pack) -> tuple[Tensor, ...]:
    """Log softmax over the vocabulary at each response token of a pack under `model`: [T, V] float32 of each answer."""
    lm = causal_lm(model)
    if pack.segments:
        head = lm.get_output_embeddings()
        assert head is not None
        hidden_TD = _response_hidden(lm, pack).to(head.weight.dtype)
        scores_TV = product(hidden_TD, head.weight, getattr(head, "bias", None)).float()
    else:
        scores_TV = _response_logits(lm, pack)
    return torch.split(torch.log_softmax(scores_TV, -1), list(pack.sizes))


def _response_hidden(lm: PreTrainedModel, pack: Pack) -> Tensor:
    """Last hidden states of a packed row at the columns that predict a response token, [T, D]."""
    row = pack
    if pack.input_ids.device.type == "cuda":
        # Few widths, so that kernels are compiled for few: a whole layer takes ten seconds, attention alone one.
        row = padded(pack, widths=2 if is_compiled(lm) else 8)
    with packed_attention(lm, row.segments), compiled_layers(lm):
        output = lm.base_model(input_ids=row.input_ids, position_ids=row.position_ids, use_cache=False)
    hidden_TD: Tensor = output.last_hidden_state[0][pack.source_T]
    return hidden_TD


class _TokenDivergence(torch.autograd.Function):
    """KL(softmax(g W^T) || softmax(h W^T)) [T], float32, in chunks of positions; gradient (q - p) W for h alone."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, teacher_TD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
        kl_T = torch.empty(len(hidden_TD), dtype=torch.float32, device=hidden_TD.device)
        grad_TD = torch.empty_like(hidden_TD) if ctx.needs_input_grad[0] else None
        rows = _chunk(weight_VD, logits=2)
        for start in range(0, len(hidden_TD), rows):
            part = slice(start, start + rows)
            student_TV = torch.log_softmax(product(hidden_TD[part], weight_VD, bias_V).float(), -1)
            teacher_TV = torch.log_softmax(product(teacher_TD[part], weight_VD, bias_V).float(), -1)
            kl_T[part] = (teacher_TV.exp() * (teacher_TV - student_TV)).sum(-1)
            if grad_TD is not None:
                grad_TD[part] = product((student_TV.exp() - teacher_TV.exp()).to(weight_VD.dtype), weight_VD.t())
        ctx.save_for_backward(grad_TD)
        return kl_T

    @staticmethod
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_TD,) = ctx.saved_tensors
        return grad_TD * grad_T[:, None].to(grad_TD.dtype), None, None, None


def token_divergence(model: nn.Module, pack: Pack, weights: Mapping[str, Tensor]) -> Tensor:
    """KL(policy with `weights` || policy now) at each response token of a pack, [T] nats, with a graph for the latter.

    Dropout, if it is on, applies to the policy only, not to the stored weights.
    """
    lm = causal_lm(model)
    if not pack.segments:
        student_TV = _response_logits(lm, pack)
        with torch.no_grad(), holding(model, weights), dropout_off(model):
            teacher_TV = torch.log_softmax(_response_logits(lm, pack), -1)
        return (teacher_TV.exp() * (teacher_TV - torch.log_softmax(student_TV, -1))).sum(-1)
    head = lm.get_output_embeddings()
    assert head is not None
    hidden_TD = _response_hidden(lm, pack).to(head.weight.dtype)
    with torch.no_grad(), holding(model, weights), dropout_off(model):
        teacher_TD = _response_hidden(lm, pack).to(head.weight.dtype)
    kl_T: Tensor = _TokenDivergence.apply(  # type: ignore[no-untyped-call]
        hidden_TD, teacher_TD, head.weight, getattr(head, "bias", None)
    )
    return kl_T


def _response_logits(lm: PreTrainedModel, pack: Pack) -> Tensor:
    """Logits of plain rows at the columns that predict a response token, [T, V] float32."""
    output = lm(input_ids=pack.input_ids, attention_mask=pack.mask, position_ids=pack.position_ids, use_cache=False)
    logits_TV: Tensor = output.logits.reshape(-1, output.logits.shape[-1])[pack.source_T].float()
    return logits_TV


@torch.no_grad()
def kl_to_base(model: nn.Module, pack: Pack, base_pack: Pack | None = None) -> float:
    """Mean over the response tokens of KL(policy || base model), nats; summed over the vocabulary, not sampled.

    `base_pack` holds the same pairs as the base model sees them, if that differs (virtual tokens).
    """
    lm = causal_lm(model)

    def response(pack: Pack) -> Tensor:
        return _response_hidden(lm, pack) if pack.segments else torch.log_softmax(_response_logits(lm, pack), -1)

    policy = response(pack)
    with adapter_off(model):
        base = response(base_pack or pack)
    if not pack.segments:
        return float((policy.exp() * (policy - base)).sum(-1).mean())
    head = lm.get_output_embeddings()
    assert head is not None
    hidden = (h.to(head.weight.dtype) for h in (base, policy))
    kl_T: Tensor = _TokenDivergence.apply(*hidden, head.weight, getattr(head, "bias", None))  # type: ignore[no-untyped-call]
    return float(kl_T.mean())


@torch.no_grad()
def probe(model: nn.Module, pairs: Sequence[EncodedPair]) -> str | None:
    """Compare packed with plain rows on three pairs: the longest, which a window cuts first, and the two shortest, which cost least.

    In half precision both are compared with the same rows in float32: packed rows are taken only where their error is no
    larger than that of plain rows, as they are or in another padding.

    Returns:
        None if they agree; otherwise one sentence on why packed rows cannot be used for this model.
    """
    if not pairs:
        return None
    by_length = sorted(range(len(pairs)), key=lambda i: cost(pairs[i], shared_prefix=False))
    index = [by_length[-1], *by_length[:-1][:2]]
    lm = causal_lm(model)
    name = type(lm).__name__
    if (kind := carries_state(lm)) is not None:
        return f"{name}: packed rows would leak through its layers that carry a state along a row ({kind})"
    head = lm.get_output_embeddings()
    if head is None or any(p.requires_grad for p in head.parameters()):
        return f"{name}: packed rows need a frozen vocabulary projection, but this one is trained"
    with dropout_off(model):
        try:
            return _difference(model, pairs, index)
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
            # Models reject packed rows in many different ways; plain rows always work.
            return f"{name} does not support packed rows: {type(error).__name__}: {error}"


def _difference(model: nn.Module, pairs: Sequence[EncodedPair], index: Sequence[int]) -> str | None:
    """How packed rows differ from plain ones by more than rounding; None if they do not."""
    lm = causal_lm(model)
    device = next(lm.parameters()).device
    # One pair at a time: the plain rows' logits over the whole vocabulary take more memory than anything else in a run.
    packs = [pack_pairs(pairs, [i], shared_prefix=False) for i in index]

    def plain(extra: int = 0) -> Tensor:
        made = (widened(pack, extra) if extra else pack for pack in packs)
        return torch.cat([token_logps(model, pack.to(device)).token_T for pack in made])

    rows_T = plain()
    packed_T = token_logps(model, pack_pairs(pairs, index, shared_prefix=True).to(device)).token_T
    if lm.dtype == torch.float32:
        mean = float((rows_T - packed_T).abs().mean())
        if mean <= EXACT:
            return None
        return f"{type(lm).__name__}: packed rows differ from plain rows by {mean:.3g} nats a token (allowed {EXACT:g})"
    with in_float32(model):
        exact_T = plain()
    own = max(rms(rows_T - exact_T), rms(plain(PADDING) - exact_T))
    found = rms(packed_T - exact_T)
    if found <= SLACK * own:
        return None
    return (
        f"{type(lm).__name__}: packed rows differ from plain rows by more than rounding: they are {found:.3g} nats a token from "
        f"float32, plain rows {own:.3g}"
    )
