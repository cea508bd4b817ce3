"""The paper's codec: a unified delta that all experts share, and a trigger for each of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from condu_cli.core.arrays.bits import Array
from condu_cli.core.arrays.coders import DTYPES
from condu_cli.core.arrays.layout import Bits, InvalidStateError, ParameterLayout, Tensors
from condu_cli.core.arrays.platforms import platform_of
from condu_cli.core.codecs.condu.parts import trigger_of
from condu_cli.core.codecs.condu.patches import difference, restore
from condu_cli.core.codecs.condu.stored_masks import encode_mask
from condu_cli.core.codecs.interface import EMPTY, NO_OPTIONS, EncodedState, UnknownCodecError
from condu_cli.core.merging import masks
from condu_cli.core.merging.decouple import Target, decouple, decouple_into, moved, relative_drift
from condu_cli.core.merging.method import Method, Trigger, check_trigger
from condu_cli.core.merging.preparation import prepare
from condu_cli.core.merging.rescalers import GRANULARITIES
from condu_cli.core.merging.unify import Unified, reunify, unify

WORTH_PREPARING = 2_000_000  # parameters


class ConduCodec:
    """The paper's encoding (ConDU, arXiv 2503.10705): a unified delta and triggers.

    Options: "dtype" of the unified delta and granularity of the "rescaler". The shared part is
    what `UnifiedDtype.arrays` lists. A task's part is its mask in either form of `stored_masks`;
    "rescaler", float32 (groups,); and two float64 (1,): "l1_norm", the norm of its delta, and
    "covered_norm", the norm of what it owns in the unified delta. (The first parts that were
    written have "rescaler" in float64 and no "covered_norm"; they are read as well.)

    All experts share one unified delta, so an expert cannot have its own options. Raises
    UnknownCodecError for an option or value that it does not know.
    """

    name: ClassVar[str] = "condu"
    defaults: ClassVar[Mapping[str, str]] = {"dtype": "float32", "rescaler": "row"}
    absent: ClassVar[Mapping[str, str]] = {"dtype": "float32", "rescaler": "global"}
    """The value of an option that a record lacks: what the codec did before the option existed.

    A new option gets a line here when it is added. No line ever changes.
    """
    values: ClassVar[Mapping[str, Sequence[str]]] = {
        "dtype": tuple(DTYPES),
        "rescaler": GRANULARITIES,
    }

    def __init__(self, layout: ParameterLayout, options: Mapping[str, str] = NO_OPTIONS) -> None:
        self.layout = layout
        self.options: Mapping[str, str] = {**self.absent, **options}
        for option, value in self.options.items():
            if value not in self.values.get(option, ()):
                raise UnknownCodecError(f"codec {self.name!r} has no option {option}={value!r}")
        self._method = Method(layout, self.options["rescaler"], self.options["dtype"])

    def prepare(self) -> None:
        """Load the inner loops, compiling them on a machine's first run; see `Preparing`."""
        if self.layout.count >= WORTH_PREPARING:
            prepare()

    def encode(
        self, state: EncodedState, delta: Tensors, own: Mapping[str, str] = NO_OPTIONS
    ) -> EncodedState:
        """Unify a new delta with the experts of `state`; see `Codec.encode`."""
        if own:
            raise UnknownCodecError(f"codec {self.name!r} has the same options for all experts")
        triggers = self._triggers(state.parts)
        return _encoded(unify(self._method, state.shared, triggers, delta))

    def remove(self, state: EncodedState, index: int) -> EncodedState:
        """Drop one trigger and unify the rest once more; see `Codec.remove`."""
        if not 0 <= index < len(state.parts):
            raise IndexError(f"no expert {index} among {len(state.parts)}")
        rest = [part for position, part in enumerate(state.parts) if position != index]
        if not rest:
            return EMPTY
        return _encoded(reunify(self._method, self._unified(state.shared), self._triggers(rest)))

    def decode(self, shared: Tensors | None, part: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield one expert's delta tensor by tensor; see `Codec.decode`."""
        return decouple(self._method, self._unified(shared), self._trigger(part))

    def decode_into(
        self,
        shared: Tensors | None,
        base: Mapping[str, Array],
        parts: Sequence[Tensors],
        weights: Sequence[Mapping[str, Array]],
    ) -> None:
        """Decouple experts straight into weights; see `WritingWeights`."""
        targets = [
            Target(self._trigger(part), model) for part, model in zip(parts, weights, strict=True)
        ]
        decouple_into(self._method, self._unified(shared), base, targets)

    def drifts(self, before: EncodedState, after: EncodedState) -> list[float]:
        """Compare the experts of two states in one pass; see `Measuring`."""
        if not before.parts:
            return []
        old, new = (
            Unified(self._unified(state.shared), self._triggers(state.parts))
            for state in (before, after)
        )
        distances = moved(self._method, old, new)
        norms = [_norm(part, "l1_norm", f"tasks[{i}].") for i, part in enumerate(before.parts)]
        return [relative_drift(d, norm) for d, norm in zip(distances, norms, strict=True)]

    def overlaps(self, before: EncodedState, after: EncodedState) -> list[float]:
        """Return the Jaccard index of each expert's masks; see `Masking`."""
        count = min(len(before.parts), len(after.parts))
        pairs = zip(*(self._masks(state.parts[:count]) for state in (before, after)), strict=True)
        return [masks.overlap(old, new).jaccard for old, new in pairs]

    def difference(
        self, newer: EncodedState, older: EncodedState, pairs: Sequence[int | None]
    ) -> dict[str, NDArray[Any]]:
        """Return a patch as described in `patches`; see `Patching.difference`."""
        return difference(self._method, newer, older, pairs)

    def restore(self, newer: EncodedState, patch: Tensors) -> EncodedState:
        """Restore the older state; see `Patching.restore`."""
        return restore(self._method, newer, patch)

    def describe(self, state: EncodedState) -> list[dict[str, Any]]:
        """Return for each expert, as floats:

        "rescaler"      its L1 norm over that of what it owns in the unified delta: the mean factor
        "mask_density"  the share of all parameters that it changes, 0..1
        "l1_norm"       the L1 norm of its delta

        See `Codec.describe`.
        """
        if state.parts or state.shared is not None:
            self._method.stored(self._unified(state.shared))
        return [self._record(part, f"tasks[{place}].") for place, part in enumerate(state.parts)]

    def _record(self, part: Tensors, label: str) -> dict[str, Any]:
        trigger = self._trigger(part, label)
        check_trigger(self._method, trigger, label)
        norm = _norm(part, "l1_norm", label)
        bits, count = masks.count(trigger.mask), self.layout.count
        return {
            "rescaler": _mean_rescaler(part, norm, label),
            "mask_density": bits / count if count else 0.0,
            "l1_norm": norm,
        }

    def _unified(self, shared: Tensors | None) -> Tensors:
        if shared is None:
            raise InvalidStateError(self.layout.names[0], "is missing: no unified delta")
        return shared

    def _triggers(self, parts: Sequence[Tensors]) -> list[Trigger]:
        return [self._trigger(part, f"tasks[{i}].") for i, part in enumerate(parts)]

    def _masks(self, parts: Sequence[Tensors]) -> Iterator[Bits]:
        for position, trigger in enumerate(self._triggers(parts)):
            check_trigger(self._method, trigger, f"tasks[{position}].")
            yield np.asarray(trigger.mask)

    def _trigger(self, part: Tensors, label: str = "") -> Trigger:
        return trigger_of(self._method, part, label)


def _encoded(unified: Unified) -> EncodedState:
    """Return the state as numpy arrays, wherever it was unified."""
    host = platform_of(unified.unified.values()).host
    parts: list[Tensors] = [
        {
            **encode_mask(host(trigger.mask)),
            "rescaler": host(trigger.rescaler),
            "l1_norm": np.array([norm]),
            "covered_norm": np.array([covered]),
        }
        for trigger, norm, covered in zip(
            unified.triggers, unified.norms, unified.covered, strict=True
        )
    ]
    return EncodedState({name: host(array) for name, array in unified.unified.items()}, parts)


def _mean_rescaler(part: Tensors, norm: float, label: str) -> float:
    if "covered_norm" not in part:  # the first format: a single global rescaler
        return float(part["rescaler"][0])
    covered = _norm(part, "covered_norm", label)
    return norm / covered if covered else 1.0


def _norm(part: Tensors, name: str, label: str) -> float:
    norm = part[name]
    if norm.dtype != np.float64 or norm.shape != (1,):
        raise InvalidStateError(f"{label}{name}", f"is {norm.dtype} {norm.shape}, not float64 (1,)")
    value = float(norm[0])
    if not 0 <= value < np.inf:
        raise InvalidStateError(f"{label}{name}", f"is not a norm: {value!r}")
    return value
