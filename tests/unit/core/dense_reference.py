"""Unify as it is defined: every expert in memory, one plain Python loop.

Sums are exact: a float32 is an integer multiple of 2**-149, a product of two a multiple of
2**-298, and Python's integers are unbounded. So the reference itself never rounds.
It shares no code with the program.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import prod

import numpy as np

SMALLEST, LARGEST = 2.0**-100, 2.0**100
STEPS = 2**149


@dataclass
class Groups:
    """The rescaler group of each element, and the number of groups."""

    of_element: list[int]
    count: int


@dataclass
class DenseState:
    unified: np.ndarray  # (d,) float32
    masks: list[np.ndarray]  # (d,) bool each
    rescalers: list[list[float]]  # one per group each


def groups_of(shapes, granularity):
    """One group for all, one per tensor, or one per row; a vector or scalar is one row."""
    of_element, count = [], 0
    for shape in shapes:
        size = prod(shape)
        if granularity == "global":
            of_element += [0] * size
            count = 1
        elif granularity == "tensor":
            of_element += [count] * size
            count += 1
        elif size:
            rows = shape[0] if len(shape) >= 2 else 1
            of_element += [count + element // (size // rows) for element in range(size)]
            count += rows
    return Groups(of_element, count)


def factors(state, groups):
    """Return each expert's rescaler for every element, float32 (d,)."""
    index = np.array(groups.of_element, dtype=np.int64)
    return [np.array(rescaler, dtype=np.float32)[index] for rescaler in state.rescalers]


def decouple(state, groups):
    """Return every expert as a (d,) float32 array."""
    return [
        np.where(mask, state.unified, np.float32(0)) * factor
        for mask, factor in zip(state.masks, factors(state, groups), strict=True)
    ]


def whole(values):
    """Express float32 values as integer multiples of 2**-149."""
    return [int(value) for value in values.astype(np.float64) * STEPS]


def exact_experts(state, groups):
    """Return every expert in units of 2**-298, before rounding; elements that round to 0 are 0."""
    unified = whole(state.unified)
    return [
        [
            u * f if rounded else 0
            for u, f, rounded in zip(unified, whole(factor), rough, strict=True)
        ]
        for rough, factor in zip(decouple(state, groups), factors(state, groups), strict=True)
    ]


def exact_delta(delta):
    """Express a delta in units of 2**-298."""
    return [value * STEPS for value in whole(delta)]


def one_shot(deltas, exact, groups):
    """Elect, mask and rescale materialised deltas; `exact` holds them before rounding."""
    unified = np.zeros(deltas[0].size, dtype=np.float32)
    for j in range(unified.size):
        column = [delta[j] for delta in deltas]
        elected = max(column) if sum(delta[j] for delta in exact) > 0 else min(column)
        unified[j] = elected if elected != 0 else 0.0
    masks = [np.sign(delta) * np.sign(unified) > 0 for delta in deltas]
    magnitudes = [abs(value) for value in exact_delta(unified)]
    found = [rescaler(e, magnitudes, m, groups) for e, m in zip(exact, masks, strict=True)]
    return DenseState(unified, masks, found)


def rescaler(exact, magnitudes, mask, groups):
    """Return, per group, the expert's L1 norm divided by that of the elements it owns."""
    norms, covered = [0] * groups.count, [0] * groups.count
    for group, value, magnitude, owned in zip(
        groups.of_element, exact, magnitudes, mask, strict=True
    ):
        norms[group] += abs(value)
        covered[group] += magnitude if owned else 0
    return [ratio(norm, cover) for norm, cover in zip(norms, covered, strict=True)]


def ratio(norm, covered):
    if norm == 0 or covered == 0:
        return 1.0
    clipped = min(max(Fraction(norm, covered), Fraction(SMALLEST)), Fraction(LARGEST))
    return float(np.float32(float(clipped)))


def learn(state, delta, groups):
    """Run one session: unify the decoupled experts with a new delta."""
    if state is None:
        return one_shot([delta], [exact_delta(delta)], groups)
    exact = [*exact_experts(state, groups), exact_delta(delta)]
    return one_shot([*decouple(state, groups), delta], exact, groups)


def again(state, groups):
    """Run one session without a new task."""
    return one_shot(decouple(state, groups), exact_experts(state, groups), groups)
