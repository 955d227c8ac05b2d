"""Puts the weights of a point into the one loaded model of a server, and weighs the tasks of routed prompts."""

from __future__ import annotations

from collections.abc import Sequence

from lifealign.memory.routing import Routes
from lifealign.memory.serving.points import Place
from lifealign.memory.session import Session
from lifealign.model.adapters import restore

Weights = tuple[tuple[str, float], ...]
"""Task and weight, in the order they were learnt."""


class Loader:
    """The model of a server; used by one thread.

    Args:
        session: of the memory.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._held: tuple[str, Weights | None] | None = None
        self._routes: tuple[str, Routes] | None = None

    def weigh(self, place: Place, prompts: Sequence[Sequence[int]]) -> list[Weights]:
        """Weights of the tasks for each prompt: one forward of the base model for all prompts.

        Raises:
            UserError: the memory cannot be read, or has no signatures.
        """
        routes = self._of(place)
        found = routes.router.tasks(self.session.view, prompts)
        return [tuple(routes.weights(tasks).items()) for tasks in found]

    def put(self, place: Place, weights: Weights | None) -> None:
        """Use a point's weights, or those composed with these weights of its tasks; nothing happens if they are in place.

        Raises:
            UserError: a file of the memory is damaged.
        """
        wanted = (place.task.sha256, weights)
        if self._held == wanted:
            return
        self._held = None
        self.session.load_one(place.reader, place.task)
        if weights is not None:
            restore(self.session.model, self._of(place).composer(dict(weights)).adapter)
        self.session.strategy.select(self.session.model, None)
        self._held = wanted

    def _of(self, place: Place) -> Routes:
        if self._routes is None or self._routes[0] != place.task.sha256:
            self._routes = (place.task.sha256, Routes(place.reader, place.task))
        return self._routes[1]
