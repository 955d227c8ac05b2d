"""A context that the reference sees and the policy does not (LongPO, arXiv 2502.13922), so that training distils it into the weights.

The policy sees a row's prompt x, the reference the same prompt behind a system text c. With the loss of `strategy.loss` on
log pi(y | x) - log ref(y | c, x), the policy is held near what the reference does under the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lifealign.core.errors import ConfigError
from lifealign.data.tasks import Row, in_context
from lifealign.model.encoding import EncodedPair, Encoder, common_prefix


def behind(
    text: str, pairs: Sequence[EncodedPair], rows: Sequence[Row], encoder: Encoder, positions: int
) -> list[EncodedPair]:
    """The pairs with a system text before their prompts.

    The answers stay the policy's own ids, so both sum over the same tokens. The text is a part of the prompt's ids, and by them of the
    key of the cache of log-probs.

    Args:
        text: the context.
        pairs: encoded rows; their positions are those in `rows`.
        rows: where they come from.
        encoder: of the memory.
        positions: of the base model's context.

    Raises:
        ConfigError: the template writes no system text, or a row does not fit into the base model's context with it.
    """
    found = []
    for pair in pairs:
        row = rows[pair.position]
        prompt = tuple(encoder.prompt_ids(in_context(row.prompt, text), encoder.reasons(row)))
        if prompt == pair.prompt:
            raise ConfigError(
                "strategy.reference_context is a system turn, but the model's chat template leaves system texts out; set "
                "data.system=merge"
            )
        size = len(prompt) + max(len(pair.chosen), len(pair.rejected))
        if size > positions:
            raise ConfigError(
                f"{row.source}: {size} tokens with strategy.reference_context, but the base model's context is {positions}; "
                "shorten the text, or lower data.max_length"
            )
        found.append(replace(pair, prompt=prompt))
    opening = common_prefix([pair.prompt for pair in found]) if len(found) > 1 else 0
    return [replace(pair, opening=opening) for pair in found]
