"""Decouple: rebuild one expert's delta from the unified delta and the expert's trigger."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condu_cli.core.layout import Float32, InvalidStateError, ParameterLayout, Tensors
from condu_cli.core.masks import tensor_mask
from condu_cli.core.unify import Trigger, check_trigger, read_unified


def decouple_tensor(
    layout: ParameterLayout, name: str, unified_tensor: Float32, trigger: Trigger
) -> Float32:
    """One tensor of an expert's delta: float32(rescaler * unified delta) where masked, else 0.

    `unified_tensor` and the result have the parameter's shape. Nothing is checked here.
    Source: ConDU (arXiv 2503.10705), decouple step.
    """
    mask = tensor_mask(trigger.mask, layout, name)
    # Both factors are float32 values: one float32 product is the float64 product, rounded.
    owned = np.where(mask, unified_tensor, np.float32(0))
    return np.multiply(owned, np.float32(trigger.rescaler[0]), dtype=np.float32)


def decouple(
    layout: ParameterLayout, unified: Tensors, trigger: Trigger
) -> Iterator[tuple[str, Float32]]:
    """Yield (name, float32 delta of the parameter's shape), one tensor at a time.

    Each tensor of `unified` is read once, so it may load lazily; the whole expert is never in
    memory. Raises InvalidStateError naming what does not have its promised form.
    """
    fault = layout.name_fault(unified)
    if fault:
        raise InvalidStateError(*fault)
    check_trigger(layout, trigger)
    for name in layout.names:
        values = read_unified(layout, unified, name)
        yield name, decouple_tensor(layout, name, values, trigger)


def drift(
    before: Iterable[tuple[str, NDArray[Any]]], after: Iterable[tuple[str, NDArray[Any]]]
) -> float:
    """How far an expert moved between two sessions: ||after - before||_1 / ||before||_1.

    Both arguments yield (name, delta) in the same order, as a codec's decode does; one pair
    of tensors is in memory at a time. 0 is no change; an expert that was zero and is not any
    more gives infinity. Raises ValueError where names or shapes differ.
    """
    moved, norm = [], []
    for (name, old), (other, new) in zip(before, after, strict=True):
        if name != other or old.shape != new.shape:
            raise ValueError(f"experts differ in their parameters: {name!r} and {other!r}")
        moved.append(float(np.abs(np.subtract(new, old, dtype=np.float64)).sum()))
        norm.append(float(np.abs(old).sum(dtype=np.float64)))
    if math.fsum(norm) == 0:
        return math.inf if math.fsum(moved) else 0.0
    return math.fsum(moved) / math.fsum(norm)
