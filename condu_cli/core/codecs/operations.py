"""Operations on the experts of any codec, using its own implementation if it has one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from condu_cli.core.arrays.platforms import platform_of
from condu_cli.core.codecs.interface import Masking, Measuring, Preparing, WritingWeights
from condu_cli.core.merging.checks import check_forms
from condu_cli.core.merging.decouple import relative_drift

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.layout import Tensors
    from condu_cli.core.codecs.interface import Codec, EncodedState


def same_code(one: Codec, other: Codec) -> bool:
    """Whether two codecs read and write the same arrays: same name and options."""
    return (one.name, dict(one.options)) == (other.name, dict(other.options))


def prepare(codec: Codec) -> None:
    """Let a codec get ready to encode, which may take seconds; see `Preparing`."""
    if isinstance(codec, Preparing):
        codec.prepare()


def decode_into(
    codec: Codec,
    shared: Tensors | None,
    base: Mapping[str, Array],
    parts: Sequence[Tensors],
    weights: Sequence[Mapping[str, Array]],
) -> None:
    """Write base + delta of each part's expert into its weights; see `WritingWeights`.

    Raises InvalidStateError, or InvalidDeltaError naming a parameter of the base or of the
    weights that does not fit; in the latter case nothing is written.
    """
    if isinstance(codec, WritingWeights):
        codec.decode_into(shared, base, parts, weights)
        return
    platform = platform_of(base.values())
    for model in (base, *weights):
        codec.layout.check_names(model)
        check_forms(codec.layout, platform, [model[name] for name in codec.layout.names])
    with platform.working():
        for part, model in zip(parts, weights, strict=True):
            for name, delta in codec.decode(shared, part):
                model[name][...] = base[name] + platform.here(delta)


def drifts(
    codec: Codec, before: EncodedState, after_codec: Codec, after: EncodedState
) -> list[float]:
    """Return how far each expert of `before` moved, relative to its L1 norm; see `Measuring`.

    The experts of `after` are those of `before` at the same places; more may follow. The two
    states may be in different codecs. Raises InvalidStateError naming what is wrong.
    """
    if isinstance(codec, Measuring) and same_code(codec, after_codec):
        return codec.drifts(before, after)
    return [
        drift(codec.decode(before.shared, old), after_codec.decode(after.shared, new))
        for old, new in zip(before.parts, after.parts[: len(before.parts)], strict=True)
    ]


def overlaps(
    codec: Codec, before: EncodedState, after_codec: Codec, after: EncodedState
) -> list[float] | None:
    """Return how much of its parameters each expert kept; see `Masking`.

    None if the codec has no masks, or the two states are in different codecs.
    """
    if isinstance(codec, Masking) and same_code(codec, after_codec):
        return codec.overlaps(before, after)
    return None


def drift(
    before: Iterable[tuple[str, NDArray[Any]]], after: Iterable[tuple[str, NDArray[Any]]]
) -> float:
    """Return how far an expert moved between two states: ||after - before||_1 / ||before||_1.

    Both arguments yield (name, delta) in the same order, as a codec's decode does; one pair
    of tensors is in memory at a time. Raises ValueError if names or shapes differ.
    """
    distance, norm = [], []
    for (name, old), (other, new) in zip(before, after, strict=True):
        if name != other or old.shape != new.shape:
            raise ValueError(f"experts differ in their parameters: {name!r} and {other!r}")
        distance.append(float(np.abs(np.subtract(new, old, dtype=np.float64)).sum()))
        norm.append(float(np.abs(old).sum(dtype=np.float64)))
    return relative_drift(math.fsum(distance), math.fsum(norm))
