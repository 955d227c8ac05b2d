"""Answers of the model: batched generation, greedy or sampled, with the adapter as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from lifealign.core.errors import DataError
from lifealign.core.progress import NullProgress, Progress
from lifealign.data.prompts import CutAnswer
from lifealign.data.tasks import Message
from lifealign.model.adapters import causal_lm
from lifealign.model.encoding import Encoder

Prefix = Callable[[Sequence[Sequence[int]]], list[tuple[int, ...]]]
"""Virtual token ids to put before each prompt (`training.strategy.Strategy.prefix`)."""


@torch.no_grad()
def generate(
    model: nn.Module,
    encoder: Encoder,
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
    title: str = "generate",
    prefix: Prefix | None = None,
    reasons: Sequence[bool] | None = None,
) -> list[str]:
    """Generate one answer per prompt, without special tokens, in the order of the prompts; a `CutAnswer` if it was cut.

    Args:
        model: with or without adapter.
        encoder: template and tokenizer.
        prompts: conversations that end with a user turn.
        max_new_tokens: longest answer, tokens; at least 1.
        temperature: 0 is greedy, otherwise sampling. 0 <= temperature.
        top_p: nucleus of the sampling. 0 < top_p <= 1.
        seed: of the sampling.
        batch_size: prompts at once.
        progress: where to report.
        title: of the progress stage.
        prefix: of the strategy, if prompts have virtual tokens before them.
        reasons: for each prompt, whether an answer with reasoning is wanted (`Encoder.prompt_ids`); None: for none.

    Raises:
        DataError: a prompt longer than the encoder's `max_length`, or an option out of range.
    """
    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise DataError(
            f"max_new_tokens={max_new_tokens}, temperature={temperature}, top_p={top_p}: "
            "allowed: max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1"
        )
    ids = ids_of_prompts(encoder, prompts, prefix, reasons)
    lm = causal_lm(model)
    eos = int(encoder.tokenizer.eos_token_id)
    options = generation_config(lm, encoder.ends, eos, max_new_tokens, temperature, top_p)
    ends = {*options.eos_token_id, *encoder.ends}
    answers = [""] * len(ids)
    for i, made in written(lm, ids, options, seed, batch_size, progress or NullProgress(), title):
        text = text_of(encoder, made)
        answers[i] = CutAnswer(text) if ends.isdisjoint(made) else text
    return answers


@torch.no_grad()
def written(
    lm: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    options: GenerationConfig,
    seed: int,
    batch_size: int,
    progress: Progress,
    title: str,
    copies: int = 1,
) -> Iterator[tuple[int, list[int]]]:
    """Position of a prompt, and the ids that the model writes after it, padded behind the end; batch after batch.

    Args:
        lm: the model.
        prompts: token ids.
        options: see `generation_config`.
        seed: of the sampling.
        batch_size: answers at once.
        progress: where to report.
        title: of the progress stage.
        copies: answers to each prompt.
    """
    # Prompts of similar length go together: a batch is as wide as its longest prompt.
    order = [i for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])) for _ in range(copies)]
    lm.eval()
    with progress.stage(title, len(order), "answers") as stage, torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = padded(lm, [prompts[i] for i in batch], int(options.pad_token_id))
            output = lm.generate(**inputs, generation_config=options)[:, inputs["input_ids"].shape[1] :].tolist()
            yield from zip(batch, output, strict=True)
            stage.advance(len(batch))


def ids_of_prompts(
    encoder: Encoder, prompts: Sequence[Sequence[Message]], prefix: Prefix | None, reasons: Sequence[bool] | None
) -> list[list[int]]:
    """Token ids of each prompt, with its virtual tokens before it.

    Raises:
        DataError: a prompt leaves no room for an answer, or the template refuses it.
    """
    ids = []
    for number, prompt in enumerate(prompts, 1):
        try:
            prompt_ids = list(encoder.prompt_ids(prompt, bool(reasons and reasons[number - 1])))
        except DataError as error:
            raise DataError(f"prompt {number}: {error}") from None
        if len(prompt_ids) >= encoder.max_length:
            raise DataError(
                f"prompt {number} has {len(prompt_ids)} tokens, which leaves no room for an answer within "
                f"data.max_length={encoder.max_length}; shorten the prompt"
            )
        ids.append(prompt_ids)
    if prefix is None:
        return ids
    return [[*before, *prompt] for before, prompt in zip(prefix(ids), ids, strict=True)]


def generation_config(
    lm: PreTrainedModel, own: Sequence[int], eos: int, max_new_tokens: int, temperature: float, top_p: float
) -> GenerationConfig:
    """Our own configuration: a model's may have a repetition penalty or the like, and greedy must mean greedy."""
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        pad_token_id=eos,
        eos_token_id=sorted({eos, *own, *_stops(lm)}),
        repetition_penalty=1.0,
        **sampling,
    )


def _stops(lm: PreTrainedModel) -> list[int]:
    """Ids at which the model's own generation configuration stops."""
    ends = lm.generation_config.eos_token_id if lm.generation_config is not None else None
    return [] if ends is None else list(ends) if isinstance(ends, list) else [ends]


def stop_at(lm: PreTrainedModel, ends: Sequence[int]) -> None:
    """Let whoever loads the model later stop where an answer was learnt to end."""
    if lm.generation_config is not None and not set(ends) <= set(_stops(lm)):
        lm.generation_config.eos_token_id = sorted({*_stops(lm), *ends})


def padded(lm: PreTrainedModel, batch: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    """Prompts of one batch, padded on the left; the mask comes from lengths, as the pad token may be EOS."""
    width = max(len(ids) for ids in batch)
    input_ids = torch.full((len(batch), width), pad, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(batch):
        input_ids[row, width - len(ids) :] = torch.tensor(ids)
        mask[row, width - len(ids) :] = 1
    device = next(lm.parameters()).device
    return {"input_ids": input_ids.to(device), "attention_mask": mask.to(device)}


def text_of(encoder: Encoder, ids: list[int]) -> str:
    """The text of generated tokens up to the first end, without special tokens."""
    return str(encoder.tokenizer.decode(_until(ids, encoder.ends), skip_special_tokens=True)).strip()


def _until(ids: list[int], ends: Sequence[int]) -> list[int]:
    """The ids before the first end: not every template's end is a special token, which decoding leaves out."""
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]
