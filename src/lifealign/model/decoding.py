"""Decoders: ways to choose an answer among those that a model may give, by name or from outside.

A decoder changes no weights. It is called with one set of weights in place, and with every prompt that they answer.
`lifealign generate --decoder NAME`, `lifealign answers --decoder NAME` and `Memory.generate(decoder=...)` use one; without,
answers come from `generate.generate` alone. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lifealign.core.config_files import explain
from lifealign.core.errors import ConfigError, DataError
from lifealign.core.frozen import Frozen
from lifealign.core.progress import NullProgress, Progress
from lifealign.core.registry import Registry
from lifealign.data.suites.rules import Rule
from lifealign.data.tasks import Message

if TYPE_CHECKING:
    from torch import nn

    from lifealign.model.encoding import Encoder
    from lifealign.model.generate import Prefix

Conversation = Sequence[Message]


@dataclass(frozen=True)
class Speaker:
    """What a decoder may ask: a model with its weights in place, and the options of the call.

    Attributes:
        model: with or without adapter, in evaluation mode.
        encoder: template and tokenizer.
        prefix: of the strategy, if prompts have virtual tokens before them.
        implicit: (prompts, answers) -> the memory's own reward of each answer, beta log(policy / reference), in units of
            reward; None for an empty answer. None: there is no reference.
        reasons: for each prompt, whether an answer with reasoning is wanted; None: for none.
        max_new_tokens: longest answer, in tokens. 1 <= max_new_tokens.
        temperature: of sampling; None: not given. 0 <= temperature.
        top_p: nucleus of sampling. 0 < top_p <= 1.
        seed: of sampling.
        batch_size: answers at once.
        progress: where to report.
        title: of progress stages.
    """

    model: nn.Module
    encoder: Encoder
    prefix: Prefix | None = None
    implicit: Callable[[Sequence[Conversation], Sequence[str]], list[float | None]] | None = None
    reasons: Sequence[bool] | None = None
    max_new_tokens: int = 256
    temperature: float | None = None
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 16
    progress: Progress = NullProgress()  # noqa: RUF009
    title: str = "generate"


class Decoder:
    """Base of every decoder: subclass it, give it a `Config` and `answer`, and name it as path/to/file.py:Name.

    Args:
        config: an instance of `Config`.
    """

    class Config(Frozen):
        """Options, given as `--option KEY=VALUE`."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def bind(self, rule_of: Callable[[str], Rule] | None) -> None:
        """Find what the options name, before a model is loaded.

        Args:
            rule_of: name of a task of the memory -> its rule; None: no memory is at hand.

        Raises:
            ConfigError: something that the options name cannot be used.
        """

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse options of `Speaker` that the decoder cannot honour, before a model is loaded.

        Raises:
            ConfigError: names the option.
        """

    def answer(self, speaker: Speaker, prompts: Sequence[Conversation]) -> list[str]:
        """One answer per prompt, in their order: `data.prompts.decoded` keeps how each was chosen."""
        raise NotImplementedError

    def told(self, answers: Sequence[str]) -> list[str]:
        """What a user must know of the answers that were chosen, in whole sentences; none by default."""
        return []


def _check(value: Any) -> str | None:
    fits = isinstance(value, type) and issubclass(value, Decoder) and value.answer is not Decoder.answer
    return (
        None if fits else f"expected a class derived from lifealign.model.decoding.Decoder with answer(), got {value!r}"
    )


DECODERS: Registry[type[Decoder]] = Registry("decoder", "lifealign.decoders", check=_check)
DECODERS.built_in({"best-of": "lifealign.model.best_of:BestOf", "hold": "lifealign.model.hold:Hold"})


def register_decoder(name: str, decoder: Any = None) -> Any:
    """Register your own decoder under a name; without `decoder`, a decorator of the class.

    Args:
        name: lower-case letters, digits, - and _.
        decoder: a class derived from `Decoder`.

    Raises:
        ConfigError: the name is taken or badly written, or `decoder` is no such class.
    """
    if decoder is None:
        return lambda decoder: register_decoder(name, decoder)
    return DECODERS.register(name, decoder)


def make_decoder(name: str, options: Mapping[str, Any] | None = None) -> Decoder:
    """A decoder by name or path/to/file.py:Name, with its options checked.

    Raises:
        ConfigError: no such decoder, or options that it refuses; names each.
    """
    kind = DECODERS.find(name)
    try:
        return kind(kind.Config.model_validate(dict(options or {})))
    except ValidationError as error:
        mistakes = list(explain(error, f"decoder {name}", kind.Config, ()))
        raise ConfigError("\n".join(mistakes)) from None


def as_decoder(given: Decoder | str | None) -> Decoder | None:
    """A decoder that was given as itself, or by name with its default options."""
    return make_decoder(given) if isinstance(given, str) else given


def decode(
    decoder: Decoder, model: nn.Module, encoder: Encoder, prompts: Sequence[Conversation], **options: Any
) -> list[str]:
    """Answers of a decoder; `options` are those of `Speaker`.

    Raises:
        ConfigError: an option that the decoder cannot honour.
        DataError: an option out of range.
    """
    decoder.check(options)
    options["progress"] = options.get("progress") or NullProgress()
    speaker = Speaker(model.eval(), encoder, **options)
    if speaker.max_new_tokens < 1:
        raise DataError(f"max_new_tokens={speaker.max_new_tokens}: allowed: max_new_tokens >= 1")
    found = decoder.answer(speaker, prompts)
    if len(found) != len(prompts):
        raise ConfigError(
            f"{type(decoder).__name__} gave {len(found)} answers to {len(prompts)} prompts; give one each"
        )
    return found
