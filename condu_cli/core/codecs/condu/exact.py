"""Parameters that a task keeps exactly instead of sharing them in the unified delta.

Vectors and depthwise kernels are small, and what merging changes in them costs accuracy. A task's
part holds each as "exact/NAME", float32 of its shape: bit for bit what was learned. They take no
part in unify, have neither mask nor rescaler, and never drift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from condu_cli.core.arrays.layout import InvalidStateError, ParameterLayout, finite_fault
from condu_cli.core.arrays.packed_numbers import from_planes, planes_of
from condu_cli.core.arrays.platforms import platform_of
from condu_cli.core.codecs.condu.entropy import compress, decompress
from condu_cli.core.merging.checks import CheckedDelta, check_delta, check_forms
from condu_cli.core.merging.masks import Overlap
from condu_cli.core.passes.vectorised import extremes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.layout import Float32, Tensors

PREFIX = "exact/"
SUMMED = 1 << 16  # elements at a time

SELECTORS: Mapping[str, Callable[[tuple[int, ...]], bool]] = {
    "vectors": lambda shape: len(shape) <= 1,
    "depthwise": lambda shape: len(shape) >= 3 and shape[1] == 1,
}
"""Words that select parameters by their shape; any other word is a parameter's name."""

Arrays = dict[str, "Float32"]


class Part(NamedTuple):
    """A task's part: the arrays of its trigger, and its exact deltas by parameter."""

    trigger: dict[str, NDArray[Any]]
    exact: Arrays


class ExactParameters:
    """Which parameters of a layout are kept exactly, and what is done with them.

    `words`: selectors and names of parameters, separated by commas. Raises ValueError for a word
    that is neither.
    """

    def __init__(self, layout: ParameterLayout, words: str) -> None:
        chosen = selected(layout, words)
        self._all = layout
        self.layout = layout.restricted_to(chosen)
        self.merged = layout.restricted_to(set(layout.names) - chosen)

    def split(self, part: Tensors, label: str = "") -> Part:
        """Read one task's part; every array is fetched once.

        Raises InvalidStateError naming `label` + the exact array that is missing, unexpected,
        misshapen or not finite.
        """
        arrays = {name: part[name] for name in part}
        given = {name: arrays.pop(name) for name in part if name.startswith(PREFIX)}
        found = {}
        for name in self.layout.names:
            array = given.pop(PREFIX + name, None)
            fault = "is missing" if array is None else self._fault(name, array)
            if array is None or fault:
                raise InvalidStateError(f"{label}{PREFIX}{name}", str(fault))
            found[name] = np.asarray(array)
        for name in sorted(given):
            raise InvalidStateError(f"{label}{name}", "is not kept exactly in this registry")
        return Part(arrays, found)

    def taken(self, delta: Mapping[str, Array]) -> tuple[Mapping[str, Array], Arrays]:
        """Return the rest of a checked or unchecked delta, and copies of the exact tensors.

        Each is fetched once. Raises InvalidDeltaError naming a parameter that is missing or
        unexpected, or an exact one that `check_delta` refuses; the rest is not checked.
        """
        self._all.check_names(delta)
        tensors = {name: delta[name] for name in self._all.names}
        rest: Mapping[str, Array] = {name: tensors[name] for name in self.merged.names}
        own = {name: tensors[name] for name in self.layout.names}
        platform = platform_of(tensors.values())
        if isinstance(delta, CheckedDelta):
            rest = CheckedDelta(rest)
            check_forms(self.layout, platform, list(own.values()))
        else:
            check_delta(self.layout, own)
        # Copies: what a state holds must not change with the caller's arrays.
        return rest, {n: np.array(platform.host(a), order="C") for n, a in own.items()}

    def weights(
        self, models: Sequence[Mapping[str, Array]]
    ) -> list[tuple[dict[str, Array], dict[str, Array]]]:
        """Split the weights of the base and of others: exact parameters, and the rest.

        Raises InvalidDeltaError naming a parameter that is missing or unexpected, or an exact one
        that is not float32 of its shape on the base's device; the rest is not checked.
        """
        platform = platform_of(models[0].values())
        found = []
        for model in models:
            self._all.check_names(model)
            own = {name: model[name] for name in self.layout.names}
            check_forms(self.layout, platform, list(own.values()))
            found.append((own, {name: model[name] for name in self.merged.names}))
        return found

    def _fault(self, name: str, array: NDArray[Any]) -> str | None:
        fault = self.layout.form_fault(name, array)
        if fault or not array.size:
            return fault
        return finite_fault(extremes(np.ascontiguousarray(array)).largest)


def selected(layout: ParameterLayout, words: str) -> set[str]:
    """Return the names of the parameters that some words select; see `ExactParameters`."""
    found: set[str] = set()
    for word in filter(None, words.split(",")):
        if word in SELECTORS:
            shapes = zip(layout.names, layout.shapes, strict=True)
            found.update(name for name, shape in shapes if SELECTORS[word](shape))
        elif word in layout.names:
            found.add(word)
        else:
            known = " or ".join(map(repr, SELECTORS))
            raise ValueError(f"{word!r} is neither {known} nor the name of a parameter")
    return found


def add_into(base: Mapping[str, Array], exact: Arrays, weights: Mapping[str, Array]) -> None:
    """Write base + delta of exact parameters into checked weights, numpy's or torch's."""
    platform = platform_of(base.values())
    with platform.working():
        for name, delta in exact.items():
            weights[name][...] = base[name] + platform.here(delta)


def part_arrays(exact: Arrays) -> Arrays:
    """Return exact deltas as the arrays of a part."""
    return {PREFIX + name: array for name, array in exact.items()}


# Figures


def norm(exact: Arrays) -> float:
    """Return the L1 norm of exact deltas, the same on every machine."""
    return sum(_total(array) for array in exact.values())


def distance(before: Arrays, after: Arrays) -> float:
    """Return ||after - before||_1."""
    pairs = ((before[name], after[name]) for name in before)
    return sum(_total(np.subtract(new, old, dtype=np.float64)) for old, new in pairs)


def count(exact: Arrays) -> int:
    """Return how many elements are not 0: those that an expert changes."""
    return sum(int(np.count_nonzero(array)) for array in exact.values())


def overlap(before: Arrays, after: Arrays) -> Overlap:
    """Count the elements that are not 0 in both, and in either."""
    pairs = [(before[name] != 0, after[name] != 0) for name in before]
    both = sum(int(np.count_nonzero(old & new)) for old, new in pairs)
    return Overlap(both, sum(int(np.count_nonzero(old | new)) for old, new in pairs))


def _total(values: NDArray[Any]) -> float:
    """Add up magnitudes in float64, one after another: other orders depend on the processor."""
    flat, total = np.abs(values).reshape(-1), 0.0
    for start in range(0, flat.size, SUMMED):
        block = flat[start : start + SUMMED].astype(np.float64)
        block[0] += total
        total = float(block.cumsum()[-1])
    return total


# Reverse patches


def difference(
    newer: Sequence[Arrays], older: Sequence[Arrays], pairs: Sequence[int | None]
) -> dict[str, NDArray[Any]]:
    """Return a patch's arrays for exact deltas: of those that the older part's pair lacks.

    They are called "part/I/exact/NAME": a stream (see `entropy`) of byte planes.
    """
    return {
        _patch_name(place, name): compress(planes_of(array))
        for place, (part, pair) in enumerate(zip(older, pairs, strict=True))
        for name, array in part.items()
        if pair is None or newer[pair][name].tobytes() != array.tobytes()
    }


def restored(
    layout: ParameterLayout,
    newer: Sequence[Arrays],
    patch: Tensors,
    pairs: Sequence[int | None],
) -> list[Arrays]:
    """Return the older parts' exact deltas, byte for byte, given each one's pair.

    `patch` holds the arrays of `difference`. Raises InvalidStateError naming the one that is
    missing, unexpected or corrupt.
    """
    left = dict(patch)
    parts = []
    for place, pair in enumerate(pairs):
        found: Arrays = {} if pair is None else dict(newer[pair])
        for name, shape, size in zip(layout.names, layout.shapes, layout.sizes, strict=True):
            label = _patch_name(place, name)
            stream = left.pop(label, None)
            if stream is not None:
                planes = decompress(np.asarray(stream), label, size * 4)
                found[name] = from_planes(planes, np.dtype(np.float32)).reshape(shape)
            elif pair is None:
                raise InvalidStateError(label, "is missing")
        parts.append(found)
    for name in sorted(left):
        raise InvalidStateError(name, "is not part of this patch")
    return parts


def patch_arrays(patch: Tensors) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Split a patch into the arrays of exact deltas and all others; each is fetched once."""
    arrays = {name: patch[name] for name in patch}
    own = [name for name in arrays if f"/{PREFIX}" in name]
    return {name: arrays.pop(name) for name in own}, arrays


def _patch_name(place: int, name: str) -> str:
    return f"part/{place}/{PREFIX}{name}"
