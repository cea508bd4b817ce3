"""Unify written as its definition: every expert in memory, one plain Python loop.

Sums are exact fractions, so the reference has no rounding of its own to argue about. It
shares no code with the program.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

SMALLEST, LARGEST = 2.0**-100, 2.0**100


@dataclass
class DenseState:
    unified: np.ndarray  # (d,) float32
    masks: list[np.ndarray]  # (d,) bool each
    rescalers: list[float]


def decouple(state):
    """Every expert as a (d,) float32 array."""
    return [
        np.where(mask, state.unified, np.float32(0)) * np.float32(rescaler)
        for mask, rescaler in zip(state.masks, state.rescalers, strict=True)
    ]


def exact_experts(state):
    """Every expert as fractions, before rounding; an element that rounds to 0 is 0."""
    return [
        [
            Fraction(float(u)) * Fraction(rescaler) if rounded != 0 else Fraction(0)
            for u, rounded in zip(state.unified, expert, strict=True)
        ]
        for expert, rescaler in zip(decouple(state), state.rescalers, strict=True)
    ]


def one_shot(deltas, exact=None):
    """Elect, mask and rescale materialised deltas; `exact` holds them before rounding."""
    exact = exact or [[Fraction(float(x)) for x in delta] for delta in deltas]
    unified = np.zeros(deltas[0].size, dtype=np.float32)
    for j in range(unified.size):
        column = [delta[j] for delta in deltas]
        elected = max(column) if sum(delta[j] for delta in exact) > 0 else min(column)
        unified[j] = elected if elected != 0 else 0.0
    masks = [np.sign(delta) * np.sign(unified) > 0 for delta in deltas]
    rescalers = [rescaler(e, unified, m) for e, m in zip(exact, masks, strict=True)]
    return DenseState(unified, masks, rescalers)


def rescaler(exact_delta, unified, mask):
    norm = sum(abs(x) for x in exact_delta)
    covered = sum(abs(Fraction(float(u))) for u in unified[mask])
    if norm == 0 or covered == 0:
        return 1.0
    return float(np.float32(float(min(max(norm / covered, Fraction(SMALLEST)), Fraction(LARGEST)))))


def learn(state, delta):
    """One session: unify the decoupled experts with a new delta."""
    if state is None:
        return one_shot([delta])
    new = [Fraction(float(x)) for x in delta]
    return one_shot([*decouple(state), delta], [*exact_experts(state), new])


def again(state):
    """One session without a new task."""
    return one_shot(decouple(state), exact_experts(state))
