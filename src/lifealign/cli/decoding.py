"""Options that choose a decoder, shared by `generate` and `answers`. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifealign.cli.options import N
from lifealign.core.errors import ConfigError

if TYPE_CHECKING:
    from lifealign.model.decoding import Decoder

BestOf = Annotated[
    int | None,
    typer.Option("--best-of", min=1, metavar=N, help="Sample N answers to each prompt and keep the best by --reward."),
]
Reward = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="Reward of --best-of: implicit (the memory's own), a rule as of --hold, or file.py:function. Default: implicit.",
    ),
]
HeldRules = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RULE",
        help="Hold a rule while decoding: task:NAME, a checker, min_words=N, max_words=N, keywords=A,B, avoid=A,B, "
        "regex=PATTERN, json, or file.py:function; repeatable.",
    ),
]
HoldWeights = Annotated[
    list[float] | None,
    typer.Option(
        "--hold-weight", min=0.0, metavar="X", help="Weight of each --hold, in their order; repeatable. Default: 1."
    ),
]
DecoderName = Annotated[
    str | None,
    typer.Option("--decoder", metavar="NAME", help="Choose answers with this decoder: best-of, hold, or file.py:Name."),
]
DecoderOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="Option of the decoder, e.g. beams=3; repeatable."),
]


def chosen_decoder(
    name: str | None,
    options: Sequence[str] | None,
    best_of: int | None,
    reward: str | None,
    hold: Sequence[str] | None,
    hold_weight: Sequence[float] | None,
) -> Decoder | None:
    """The decoder that the options of a command name; None: they name none.

    Raises:
        ConfigError: two decoders at once, an option without its decoder, or a value that the decoder refuses.
    """
    from lifealign.model.decoding import make_decoder

    wanted = {"--best-of": best_of is not None, "--hold": bool(hold), "--decoder": name is not None}
    given = [option for option, there in wanted.items() if there]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} each choose a decoder; give only one of them")
    for option, value, needs in (("--reward", reward, "--best-of"), ("--hold-weight", hold_weight, "--hold")):
        if value and not wanted[needs]:
            raise ConfigError(f"{option} has no effect without {needs}; add {needs} or leave {option} out")
    if not given:
        if options:
            raise ConfigError("--option has no effect without a decoder; add --best-of, --hold or --decoder")
        return None
    own: dict[str, Any] = {}
    if best_of is not None:
        name, own = "best-of", {"n": best_of, **({"reward": reward} if reward else {})}
    elif hold:
        name, own = "hold", {"rules": list(hold), **({"weights": list(hold_weight)} if hold_weight else {})}
    assert name is not None
    return make_decoder(name, {**own, **_options(options or ())})


def _options(given: Sequence[str]) -> dict[str, Any]:
    from lifealign.core.yaml_text import YamlError, parse_yaml

    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"--option {text!r}: expected KEY=VALUE, e.g. beams=3")
        if key in found:
            raise ConfigError(f"--option {text!r}: {key} is given twice; leave one out")
        try:
            found[key] = parse_yaml(value)
        except YamlError as error:
            raise ConfigError(f"--option {text!r}: the value is not YAML: {error}") from None
    return found
