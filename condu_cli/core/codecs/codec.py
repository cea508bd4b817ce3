"""Codecs: how experts are encoded as one shared part and one part per task.

Whatever stores, moves, verifies, counts or decodes experts goes through `Codec` and assumes
nothing else. Parts are plain mappings from name to array; those passed in may load lazily,
every tensor is read once. A codec keeps no state of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from condu_cli.core.arrays.bits import Array
from condu_cli.core.arrays.coders import DTYPES
from condu_cli.core.arrays.layout import Bits, InvalidStateError, ParameterLayout, Tensors
from condu_cli.core.arrays.platforms import platform_of
from condu_cli.core.codecs.condu.parts import EncodedState as EncodedState
from condu_cli.core.codecs.condu.parts import trigger_of
from condu_cli.core.codecs.condu.patches import difference, restore
from condu_cli.core.codecs.condu.stored_masks import encode_mask
from condu_cli.core.merging import masks
from condu_cli.core.merging.checks import CheckedDelta, check_delta
from condu_cli.core.merging.decouple import (
    State,
    Target,
    decouple,
    decouple_into,
    moved,
    relative_drift,
)
from condu_cli.core.merging.method import Method, Trigger, check_trigger
from condu_cli.core.merging.preparation import prepare
from condu_cli.core.merging.rescalers import GRANULARITIES
from condu_cli.core.merging.unify import Unified, reunify, unify

WORTH_PREPARING = 2_000_000  # parameters


class UnknownCodecError(ValueError):
    """A codec name, or an option of a codec, that this program does not know."""


@dataclass(frozen=True)
class PartSummary:
    """What one task's part says about its expert.

    `mask_bits` is how many parameters the expert changes, `mask_density` the same as a share
    of all (0..1), `l1_norm` the norm of its delta; `rescaler` is that norm over the norm of what
    the expert owns in the shared part: the mean factor, however many there are.
    """

    rescaler: float
    mask_bits: int
    mask_density: float
    l1_norm: float


class ExpertTarget(NamedTuple):
    """One task's part, and where its expert's weights go: float32 of each parameter's shape."""

    part: Tensors
    weights: Mapping[str, Array]


class Codec(Protocol):
    """Encodes a new expert into the state and decodes one expert out of it."""

    @property
    def name(self) -> str:
        """The name that the registry keeps and `codec_by_name` knows."""

    @property
    def options(self) -> Mapping[str, str]:
        """Every option with its value, as the registry keeps them."""

    def prepare(self) -> None:
        """Get ready to encode: whatever takes time and can be done while an expert is trained."""

    def check(self, delta: Tensors) -> CheckedDelta:
        """The delta, checked; raise InvalidDeltaError, naming a parameter, if it is not sound."""

    def check_state(self, state: EncodedState) -> None:
        """Raise InvalidStateError naming what does not have its promised form; reads all masks."""

    def empty(self) -> EncodedState:
        """The state without any expert."""

    def encode(self, state: EncodedState, delta: Tensors) -> EncodedState:
        """Add one expert, last; the old ones keep their order. `state` is left as it is.

        Raises InvalidDeltaError or InvalidStateError naming what is wrong.
        """

    def remove(self, state: EncodedState, index: int) -> EncodedState:
        """Take one expert out; the others keep their order. `state` is left as it is.

        Raises IndexError where there is no such expert, InvalidStateError for a broken state.
        """

    def decode(self, shared: Tensors | None, part: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield (parameter, float32 delta) of one expert, one tensor at a time.

        Raises InvalidStateError naming the tensor that does not have its promised form.
        """

    def decode_into(
        self,
        shared: Tensors | None,
        base: Mapping[str, Array],
        targets: Sequence[ExpertTarget],
    ) -> None:
        """Write base + delta into each target's weights, in one pass over the shared part.

        `base` maps each parameter to the base model's weights, numpy arrays or torch tensors on
        one device like the targets'. Raises InvalidStateError, or InvalidDeltaError naming a
        parameter that does not fit; then nothing is written.
        """

    def drifts(self, before: EncodedState, after: EncodedState) -> list[float]:
        """How far each expert of `before` moved, relative to its L1 norm; `after` may have more.

        Raises InvalidStateError naming what is wrong.
        """

    def overlaps(self, before: EncodedState, after: EncodedState) -> list[float]:
        """How much of what each expert changes is the same in both states, 0 to 1 (Jaccard).

        |M before & M after| / |M before | M after|, 1 for two empty masks, of the experts that
        both states hold at the same place. Raises InvalidStateError naming what is wrong.
        """

    def difference(
        self, newer: EncodedState, older: EncodedState, pairs: Sequence[int | None]
    ) -> dict[str, NDArray[Any]]:
        """A patch: arrays from which, with `newer`, `older` can be had back exactly.

        pairs[i] is the index of older part i's expert in `newer.parts`, None where it has none.
        The closer the states, the smaller the patch; any two states will do. Raises ValueError
        for an empty `older` or pairs that are no such indices, InvalidStateError naming what is
        wrong in a state.
        """

    def restore(self, newer: EncodedState, patch: Tensors) -> EncodedState:
        """The older state: every array has the name, dtype, shape and bytes that it had.

        `newer` must be the state that the patch was made with. Raises InvalidStateError naming
        the array of the patch or of the state that does not have its promised form.
        """

    def describe(self, part: Tensors) -> PartSummary:
        """Sum up one task's part. Raises InvalidStateError naming the tensor at fault."""


class ConduCodec:
    """The paper's encoding (ConDU, arXiv 2503.10705): a unified delta and triggers.

    Options: "dtype" of the unified delta and granularity of the "rescaler". The shared part is
    what `UnifiedDtype.arrays` lists. A task's part is its mask in either form of `mask_codecs`;
    "rescaler", float32 (groups,); and two float64 (1,): "l1_norm", the norm of its delta, and
    "covered_norm", the norm of what it owns in the unified delta. (The first parts that were
    written have "rescaler" in float64 and no "covered_norm"; they are read as well.) Raises
    UnknownCodecError for an option or value that it does not know.
    """

    name = "condu"
    defaults: Mapping[str, str] = {"dtype": "float32", "rescaler": "row"}
    values: Mapping[str, Sequence[str]] = {"dtype": tuple(DTYPES), "rescaler": GRANULARITIES}

    def __init__(self, layout: ParameterLayout, options: Mapping[str, str] | None = None) -> None:
        self.layout = layout
        self.options: Mapping[str, str] = {**self.defaults, **(options or {})}
        for option, value in self.options.items():
            if value not in self.values.get(option, ()):
                raise UnknownCodecError(f"codec {self.name!r} has no option {option}={value!r}")
        self._method = Method(layout, self.options["rescaler"], self.options["dtype"])

    def prepare(self) -> None:
        """Load the inner loops, compile them on a machine's first run; see `Codec.prepare`."""
        if self.layout.count >= WORTH_PREPARING:
            prepare()

    def check(self, delta: Tensors) -> CheckedDelta:
        """Names, shapes, dtype and values; see `Codec.check`."""
        return check_delta(self.layout, delta)

    def check_state(self, state: EncodedState) -> None:
        """Names, dtypes and shapes of all arrays, and the bits of the masks."""
        triggers = self._triggers(state.parts)
        if triggers or state.shared is not None:
            self._method.stored(self._unified(state.shared))
        for place, trigger in enumerate(triggers):
            check_trigger(self._method, trigger, f"tasks[{place}].")

    def empty(self) -> EncodedState:
        """The state without any expert."""
        return EncodedState(shared=None, parts=())

    def encode(self, state: EncodedState, delta: Tensors) -> EncodedState:
        """Unify a new delta with the experts of `state`; see `Codec.encode`."""
        triggers = self._triggers(state.parts)
        return _encoded(unify(self._method, state.shared, triggers, delta))

    def remove(self, state: EncodedState, index: int) -> EncodedState:
        """Drop one trigger and unify the rest once more; see `Codec.remove`."""
        if not 0 <= index < len(state.parts):
            raise IndexError(f"no expert {index} among {len(state.parts)}")
        rest = [part for position, part in enumerate(state.parts) if position != index]
        if not rest:
            return self.empty()
        return _encoded(reunify(self._method, self._unified(state.shared), self._triggers(rest)))

    def decode(self, shared: Tensors | None, part: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield one expert's delta tensor by tensor; see `Codec.decode`."""
        return decouple(self._method, self._unified(shared), self._trigger(part))

    def decode_into(
        self,
        shared: Tensors | None,
        base: Mapping[str, Array],
        targets: Sequence[ExpertTarget],
    ) -> None:
        """Decouple experts straight into weights; see `Codec.decode_into`."""
        experts = [Target(self._trigger(target.part), target.weights) for target in targets]
        decouple_into(self._method, self._unified(shared), base, experts)

    def drifts(self, before: EncodedState, after: EncodedState) -> list[float]:
        """Compare the experts of two states in one pass; see `Codec.drifts`."""
        if not before.parts:
            return []
        old, new = (
            State(self._unified(state.shared), self._triggers(state.parts))
            for state in (before, after)
        )
        distances = moved(self._method, old, new)
        norms = [_norm(part, "l1_norm") for part in before.parts]
        return [relative_drift(d, norm) for d, norm in zip(distances, norms, strict=True)]

    def overlaps(self, before: EncodedState, after: EncodedState) -> list[float]:
        """Jaccard's index of the masks; see `Codec.overlaps`."""
        count = min(len(before.parts), len(after.parts))
        pairs = zip(*(self._masks(state.parts[:count]) for state in (before, after)), strict=True)
        return [masks.overlap(old, new).jaccard for old, new in pairs]

    def difference(
        self, newer: EncodedState, older: EncodedState, pairs: Sequence[int | None]
    ) -> dict[str, NDArray[Any]]:
        """What `patches` documents; see `Codec.difference`."""
        return difference(self._method, newer, older, pairs)

    def restore(self, newer: EncodedState, patch: Tensors) -> EncodedState:
        """Undo what was learned since; see `Codec.restore`."""
        return restore(self._method, newer, patch)

    def describe(self, part: Tensors) -> PartSummary:
        """Sum up one task's part; see `Codec.describe`."""
        trigger = self._trigger(part)
        check_trigger(self._method, trigger)
        bits = masks.count(trigger.mask)
        norm = _norm(part, "l1_norm")
        return PartSummary(
            rescaler=_mean_rescaler(part, norm),
            mask_bits=bits,
            mask_density=bits / self.layout.count if self.layout.count else 0.0,
            l1_norm=norm,
        )

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


CODECS: Mapping[str, Callable[[ParameterLayout, Mapping[str, str] | None], Codec]] = {
    ConduCodec.name: ConduCodec,
}


def codec_by_name(
    name: str, layout: ParameterLayout, options: Mapping[str, str] | None = None
) -> Codec:
    """The codec that a registry names. Raises UnknownCodecError for a name or option unknown."""
    if name not in CODECS:
        raise UnknownCodecError(f"unknown codec {name!r}; known: {', '.join(sorted(CODECS))}")
    return CODECS[name](layout, options)


def _encoded(unified: Unified) -> EncodedState:
    """The state as plain arrays in memory, wherever it was unified."""
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


def _mean_rescaler(part: Tensors, norm: float) -> float:
    if "covered_norm" not in part:  # parts first written had one global rescaler and no more
        return float(part["rescaler"][0])
    covered = _norm(part, "covered_norm")
    return norm / covered if covered else 1.0


def _norm(part: Tensors, name: str) -> float:
    norm = part[name]
    if norm.dtype != np.float64 or norm.shape != (1,):
        raise InvalidStateError(name, f"is {norm.dtype} {norm.shape}, not float64 (1,)")
    value = float(norm[0])
    if not 0 <= value < np.inf:
        raise InvalidStateError(name, f"is not a norm: {value!r}")
    return value
