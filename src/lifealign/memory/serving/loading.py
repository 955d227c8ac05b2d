"""Puts the weights of a point into the one loaded model of a server, and weighs the tasks of routed prompts."""

from __future__ import annotations

from collections.abc import Sequence

from lifealign.memory.recompose import TEMPERATURE, Composer
from lifealign.memory.serving.points import Place
from lifealign.memory.session import Session
from lifealign.model.adapters import restore

Weights = tuple[tuple[str, float], ...]
"""Task and weight, in the order they were learnt."""


class Loader:
    """The model of a server; used by one thread.

    Args:
        session: of the memory.
        temperature: of routing.
    """

    def __init__(self, session: Session, temperature: float = TEMPERATURE) -> None:
        self.session = session
        self._temperature = temperature
        self._held: tuple[str, Weights | None] | None = None
        self._composer: tuple[str, Composer] | None = None

    def weigh(self, place: Place, prompts: Sequence[Sequence[int]]) -> list[Weights]:
        """Weights of the tasks for each prompt: one forward of the base model for all prompts.

        Raises:
            UserError: the memory cannot be read, or has no signatures.
        """
        found = self._of(place).routed(self.session, prompts, self._temperature)
        return [tuple(weights.items()) for weights in found]

    def put(self, place: Place, weights: Weights | None) -> None:
        """Use a point's weights, or those composed with these weights of its tasks; nothing happens if they are in place.

        Raises:
            UserError: a file of the memory is damaged.
        """
        wanted = (place.task.sha256, weights)
        if self._held == wanted:
            return
        self._held = None
        self.session.load(place.reader, place.task)
        if weights is not None:
            restore(self.session.model, self._of(place)(dict(weights)).adapter)
        self.session.strategy.select(self.session.model, None)
        self._held = wanted

    def _of(self, place: Place) -> Composer:
        if self._composer is None or self._composer[0] != place.task.sha256:
            self._composer = (place.task.sha256, Composer(place.reader, place.task))
        return self._composer[1]
