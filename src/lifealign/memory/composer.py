"""The weights of a memory with any weights for its tasks: `consolidation.composing` on stored tasks."""

from __future__ import annotations

from collections.abc import Mapping

from lifealign.consolidation import composing as compose
from lifealign.core.errors import ConfigError
from lifealign.memory.early import full_weights
from lifealign.memory.stored import run_config
from lifealign.memory.updates import in_weights, steps_of
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.strategies import STRATEGIES, Strategy, make_strategy


def stored_strategy(store: MemoryReader) -> Strategy:
    """The strategy that a memory was made with, without its model and state."""
    config = run_config(store)
    return make_strategy(config.strategy, config.lora, config.seed)


def why_not_summed(strategy: str) -> str:
    """Why the tasks of a memory of this strategy cannot be weighted."""
    able = ", ".join(sorted(name for name, cls in STRATEGIES.items() if cls.sums_updates))
    return (
        f"strategy {strategy} does not keep the sum of its tasks' updates in one adapter, so tasks cannot be weighted; "
        f"strategies that do: {able}"
    )


class Composer:
    """Long-term weights of a memory up to a commit, with any weights for its tasks.

    Args:
        store: the memory.
        until: the commit.
        space: see `composing.compose`; None: the space that the strategy consolidates in, else `factors`.

    Raises:
        ConfigError: the strategy's memory is not a sum of updates, or not in this space.
    """

    def __init__(self, store: MemoryReader, until: TaskManifest, space: str | None = None) -> None:
        strategy = stored_strategy(store)
        own = strategy.update_space
        if not strategy.sums_updates:
            raise ConfigError(f"{store.path}: {why_not_summed(store.config['strategy']['name'])}")
        if space not in (None, "factors", "delta_w"):
            raise ConfigError(f"space {space!r}: allowed: factors, delta_w")
        if own == "delta_w" and space == "factors":
            raise ConfigError(
                f"{store.path}: space factors: this memory was consolidated in delta_w, where the factors are split "
                "again after each task, so their differences are not updates; allowed: delta_w"
            )
        self.store, self.until = store, until
        self.space: compose.Space = "delta_w" if "delta_w" in (space, own) else "factors"
        self.names = [m.name for m in in_weights(store, until)]
        self._points, self._steps = steps_of(store, until)
        self._seed = strategy.seed

    def weights(self, given: Mapping[str, float]) -> dict[str, float]:
        """A weight for every task; 1 if none is given.

        Raises:
            StoreError: no such task up to the commit.
            ConfigError: a weight that is not finite.
        """
        return full_weights(self.store, self.until, given)

    def __call__(self, weights: Mapping[str, float]) -> compose.Composed:
        """See `composing.compose`."""
        each = [1.0 if name is None else weights[name] for name in self._steps]
        return compose.compose(self._points, each, self.space, self._seed)
