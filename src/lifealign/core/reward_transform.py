"""Calibrated and transformed rewards of several answers to one prompt (InfAlign, arXiv 2412.19792). Imports no torch.

C(y) is the share of a prompt's reference answers with a lower reward, ties half: uniform on [0, 1] for answers of the reference,
whatever a prompt's scale. Phi(C) then says what decoding is to be good at: `identity` the plain win rate, `exp t` with t > 0 best
of N, with t < 0 worst of N, `log` what best of N would answer. A pair's margin is Phi(C_chosen) - Phi(C_rejected).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

IDENTITY, LOG, EXP = "identity", "log", "exp"
LARGEST = 50.0
"""Largest |t| of `exp t`: e^50 is far above any reward."""


def calibrated(reward: float, references: Sequence[float]) -> float:
    """Share of the references below a reward, ties half, [0, 1].

    Args:
        reward: of an answer.
        references: rewards of K >= 1 answers to the same prompt; with the answer's own among them the share is inside (0, 1).
    """
    below = sum(one < reward for one in references)
    ties = sum(one == reward for one in references)
    return (below + ties / 2) / len(references)


@dataclass(frozen=True)
class Transform:
    """A transform Phi of calibrated rewards.

    Attributes:
        name: `identity`, `log` or `exp`.
        t: of `exp`: Phi(u) = sign(t) e^(t u); 0 for the others.
    """

    name: str
    t: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Transform:
        """A transform from `identity`, `log` or `exp T`.

        Raises:
            ValueError: it is none of these.
        """
        name, _, number = " ".join(text.split()).partition(" ")
        try:
            t = float(number) if number else 0.0
        except ValueError:
            t = math.nan
        fits = 0 < abs(t) <= LARGEST if name == EXP else name in (IDENTITY, LOG) and not number
        if not fits:
            raise ValueError(
                f"expected {IDENTITY}, {LOG} or '{EXP} T' with -{LARGEST:g} <= T <= {LARGEST:g}, not 0, such as '{EXP} 10'"
            )
        return cls(name, t)

    def __str__(self) -> str:
        return f"{self.name} {self.t:.12g}" if self.name == EXP else self.name

    def __call__(self, u: float) -> float:
        """Phi(u). 0 <= u <= 1, for `log` 0 < u."""
        if self.name == EXP:
            return math.copysign(math.exp(self.t * u), self.t)
        return math.log(u) if self.name == LOG else u

    def margin(self, high: float, low: float, scores: Sequence[float]) -> float:
        """Phi(C) of one answer less that of another, calibrated on the scores of all answers to the prompt, theirs included."""
        return self(calibrated(high, scores)) - self(calibrated(low, scores))
