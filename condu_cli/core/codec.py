"""Codecs: how experts are encoded as one shared part and one part per task.

Whatever stores, moves, verifies, counts or decodes experts goes through `Codec` and assumes
nothing else. Parts are plain mappings from name to array; those passed in may load lazily,
every tensor is read once. A codec keeps no state of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from condu_cli.core import masks
from condu_cli.core.decouple import decouple
from condu_cli.core.layout import InvalidStateError, ParameterLayout, Tensors
from condu_cli.core.unify import Trigger, Unified, check_trigger, reunify, unify


class UnknownCodecError(ValueError):
    """A codec name, or an option of a codec, that this program does not know."""


@dataclass(frozen=True, eq=False)
class EncodedState:
    """All experts: the shared part (None where there is none) and one part per task, in order."""

    shared: Tensors | None
    parts: Sequence[Tensors]


@dataclass(frozen=True)
class PartSummary:
    """What one task's part says about its expert.

    `mask_bits` is how many parameters the expert changes, `mask_density` the same as a share
    of all (0..1), `rescaler` the factor on the shared part, `l1_norm` the norm of its delta.
    """

    rescaler: float
    mask_bits: int
    mask_density: float
    l1_norm: float


class Codec(Protocol):
    """Encodes a new expert into the state and decodes one expert out of it."""

    @property
    def name(self) -> str:
        """The name that the registry keeps and `codec_by_name` knows."""

    @property
    def options(self) -> Mapping[str, str]:
        """Every option with its value, as the registry keeps them."""

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

    def describe(self, part: Tensors) -> PartSummary:
        """Sum up one task's part. Raises InvalidStateError naming the tensor at fault."""


class ConduCodec:
    """The paper's encoding (ConDU, arXiv 2503.10705): a unified delta and triggers.

    The shared part is one float32 tensor per parameter. A task's part is "mask", uint8 of
    shape (layout.mask_bytes,); "rescaler", float64 (1,); and "l1_norm", float64 (1,).
    Raises UnknownCodecError for an option or value that it does not know.
    """

    name = "condu"
    defaults: Mapping[str, str] = {"dtype": "float32", "rescaler": "global"}
    part_names = ("mask", "rescaler", "l1_norm")

    def __init__(self, layout: ParameterLayout, options: Mapping[str, str] | None = None) -> None:
        self.layout = layout
        self.options: Mapping[str, str] = {**self.defaults, **(options or {})}
        for option, value in self.options.items():
            if self.defaults.get(option) != value:
                raise UnknownCodecError(f"codec {self.name!r} has no option {option}={value!r}")

    def empty(self) -> EncodedState:
        """The state without any expert."""
        return EncodedState(shared=None, parts=())

    def encode(self, state: EncodedState, delta: Tensors) -> EncodedState:
        """Unify a new delta with the experts of `state`; see `Codec.encode`."""
        triggers = self._triggers(state.parts)
        return _encoded(unify(self.layout, state.shared, triggers, delta))

    def remove(self, state: EncodedState, index: int) -> EncodedState:
        """Drop one trigger and unify the rest once more; see `Codec.remove`."""
        if not 0 <= index < len(state.parts):
            raise IndexError(f"no expert {index} among {len(state.parts)}")
        rest = [part for position, part in enumerate(state.parts) if position != index]
        if not rest or state.shared is None:
            return self.empty()
        return _encoded(reunify(self.layout, state.shared, self._triggers(rest)))

    def decode(self, shared: Tensors | None, part: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield one expert's delta tensor by tensor; see `Codec.decode`."""
        if shared is None:
            raise InvalidStateError(self.layout.names[0], "is missing: no unified delta")
        return decouple(self.layout, shared, self._trigger(part))

    def describe(self, part: Tensors) -> PartSummary:
        """Sum up one task's part; see `Codec.describe`."""
        trigger = self._trigger(part)
        check_trigger(self.layout, trigger)
        bits = masks.count(trigger.mask)
        return PartSummary(
            rescaler=float(trigger.rescaler[0]),
            mask_bits=bits,
            mask_density=bits / self.layout.count if self.layout.count else 0.0,
            l1_norm=_norm(part),
        )

    def _triggers(self, parts: Sequence[Tensors]) -> list[Trigger]:
        return [self._trigger(part, f"tasks[{i}].") for i, part in enumerate(parts)]

    def _trigger(self, part: Tensors, label: str = "") -> Trigger:
        names = set(part)
        for name in self.part_names:
            if name not in names:
                raise InvalidStateError(f"{label}{name}", "is missing")
        unexpected = sorted(names.difference(self.part_names))
        if unexpected:
            raise InvalidStateError(f"{label}{unexpected[0]}", "is not part of a trigger")
        return Trigger(mask=part["mask"], rescaler=part["rescaler"])


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
    parts: list[Tensors] = [
        {
            "mask": trigger.mask,
            "rescaler": trigger.rescaler,
            "l1_norm": np.array([norm], dtype=np.float64),
        }
        for trigger, norm in zip(unified.triggers, unified.norms, strict=True)
    ]
    return EncodedState(shared=unified.unified, parts=parts)


def _norm(part: Tensors) -> float:
    norm = part["l1_norm"]
    if norm.dtype != np.float64 or norm.shape != (1,):
        raise InvalidStateError("l1_norm", f"is {norm.dtype} {norm.shape}, not float64 (1,)")
    value = float(norm[0])
    if not 0 <= value < np.inf:
        raise InvalidStateError("l1_norm", f"is not a norm: {value!r}")
    return value
