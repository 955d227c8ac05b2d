"""Answers as token ids, several to a prompt, for measurements that read a model's distribution at each of their tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lifealign.core.progress import NullProgress, Progress
from lifealign.model.adapters import causal_lm
from lifealign.model.encoding import Encoder
from lifealign.model.generate import Prefix, generation_config, written


def sample(
    model: nn.Module,
    encoder: Encoder,
    prompts: Sequence[Sequence[int]],
    copies: int,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress | None = None,
    title: str = "sample",
    prefix: Prefix | None = None,
) -> list[list[tuple[int, ...]]]:
    """Token ids of `copies` answers to each prompt, in the order of the prompts, each with the id that ended it.

    Args:
        model: with or without adapter.
        encoder: template and tokenizer.
        prompts: token ids.
        copies: answers to each prompt; 1 <= copies.
        max_new_tokens: longest answer, tokens; 1 <= max_new_tokens.
        temperature: 0 is greedy, otherwise sampling. 0 <= temperature.
        top_p: nucleus of the sampling. 0 < top_p <= 1.
        seed: of the sampling.
        batch_size: answers at once.
        progress: where to report.
        title: of the progress stage.
        prefix: of the strategy, if prompts have virtual tokens before them.
    """
    lm = causal_lm(model)
    shown = [list(p) for p in prompts]
    if prefix is not None:
        shown = [[*before, *ids] for before, ids in zip(prefix(shown), shown, strict=True)]
    eos = int(encoder.tokenizer.eos_token_id)
    options = generation_config(lm, encoder.ends, eos, max_new_tokens, temperature, top_p)
    ends = {*options.eos_token_id, *encoder.ends}
    found: list[list[tuple[int, ...]]] = [[] for _ in shown]
    for i, ids in written(lm, shown, options, seed, batch_size, progress or NullProgress(), title, copies):
        last = next((t for t, token in enumerate(ids) if token in ends), len(ids) - 1)
        found[i].append(tuple(ids[: last + 1]))
    return found
