"""The codec interface: how experts are encoded as one shared part and one part per task.

All code that stores, moves, verifies, counts or decodes experts relies only on `Codec`. Some
codecs can do more, or the same faster; each such capability is a separate protocol here, and
`operations` falls back on `Codec` for codecs that lack it. Parts are plain mappings from name to
array; those passed in may load lazily, as every tensor is read once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from condu_cli.core.arrays.bits import Array
from condu_cli.core.arrays.layout import ParameterLayout, Tensors

NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


class UnknownCodecError(ValueError):
    """A codec name, or an option of a codec, that this program does not know."""


@dataclass(frozen=True, eq=False)
class EncodedState:
    """All experts: the shared part (None if there is none) and one part per task, in order."""

    shared: Tensors | None
    parts: Sequence[Tensors]


EMPTY = EncodedState(shared=None, parts=())
"""The state without experts, the same for every codec."""


class Codec(Protocol):
    """Encodes a new expert into the state and decodes one expert out of it.

    A codec is stateless, so one instance serves a whole command.
    """

    @property
    def name(self) -> str:
        """The name that a registry records and `codec_by_name` knows."""

    @property
    def layout(self) -> ParameterLayout:
        """The parameters of every delta, in the registry's order."""

    @property
    def options(self) -> Mapping[str, str]:
        """Every option with its value, as recorded in a registry."""

    def encode(
        self, state: EncodedState, delta: Tensors, own: Mapping[str, str] = NO_OPTIONS
    ) -> EncodedState:
        """Append one expert; the old ones keep their order. `state` is not modified.

        `own` are options in which this expert differs from the others; its part alone tells how
        to decode it. Raises InvalidDeltaError or InvalidStateError naming what is wrong,
        UnknownCodecError for an option that cannot differ between experts.
        """

    def remove(self, state: EncodedState, index: int) -> EncodedState:
        """Remove one expert; the others keep their order. `state` is not modified.

        Raises IndexError if there is no such expert, InvalidStateError for a corrupt state.
        """

    def decode(self, shared: Tensors | None, part: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield (parameter, float32 delta) of one expert, one tensor at a time.

        Raises InvalidStateError naming the malformed tensor.
        """

    def describe(self, state: EncodedState) -> list[dict[str, Any]]:
        """Describe each expert in a record of JSON values, the same on any machine.

        Registries store the record next to the part, and `verify` compares the two. Every array
        of the state is checked; raises InvalidStateError naming the malformed one.
        """


class CodecFactory(Protocol):
    """A constructor of codecs of one name, usually their class.

    `defaults` are the options of a new registry unless others are given. They may change between
    versions. What a missing option means in an existing record must not change, so the
    constructor decides that.
    """

    @property
    def name(self) -> str:
        """The name that a registry records."""

    @property
    def defaults(self) -> Mapping[str, str]:
        """Every option, with its value in a new registry."""

    def __call__(self, layout: ParameterLayout, options: Mapping[str, str]) -> Codec:
        """Return the codec with the options of a record; a missing one keeps its old meaning.

        Raises UnknownCodecError for an unknown option or value.
        """


@runtime_checkable
class Patching(Protocol):
    """A codec that can store an older state as a patch on a newer one of the same options."""

    def difference(
        self, newer: EncodedState, older: EncodedState, pairs: Sequence[int | None]
    ) -> dict[str, NDArray[Any]]:
        """Return a patch: arrays from which, with `newer`, `older` can be restored exactly.

        pairs[i] is the index of older part i's expert in `newer.parts`, None if it has none.
        The closer the states, the smaller the patch; any two states will do. Raises ValueError
        for an empty `older` or invalid pairs, InvalidStateError naming what is wrong in a state.
        """

    def restore(self, newer: EncodedState, patch: Tensors) -> EncodedState:
        """Restore the older state: every array has its original name, dtype, shape and bytes.

        `newer` must be the state that the patch was made with. Raises InvalidStateError naming
        the malformed array of the patch or of the state.
        """


@runtime_checkable
class Measuring(Protocol):
    """A codec that compares two states of its own options without decoding every expert."""

    def drifts(self, before: EncodedState, after: EncodedState) -> list[float]:
        """Return how far each expert of `before` moved, relative to its L1 norm.

        Raises InvalidStateError naming what is wrong.
        """


@runtime_checkable
class Masking(Protocol):
    """A codec whose experts own only some of the parameters."""

    def overlaps(self, before: EncodedState, after: EncodedState) -> list[float]:
        """Return the Jaccard index, 0 to 1, of the parameters each expert owns in both states.

        |M before & M after| / |M before | M after|, 1 for two empty masks, for the experts that
        both states hold at the same place. Raises InvalidStateError naming what is wrong.
        """


@runtime_checkable
class WritingWeights(Protocol):
    """A codec that writes experts into weights without materialising their deltas."""

    def decode_into(
        self,
        shared: Tensors | None,
        base: Mapping[str, Array],
        parts: Sequence[Tensors],
        weights: Sequence[Mapping[str, Array]],
    ) -> None:
        """Write base + delta of each part into its weights, in one pass over the shared part.

        `base` maps each parameter to the base model's weights, numpy arrays or torch tensors on
        one device like all `weights`: float32 of each parameter's shape. Raises
        InvalidStateError, or InvalidDeltaError naming a parameter that does not fit; then
        nothing is written.
        """


@runtime_checkable
class Preparing(Protocol):
    """A codec with slow preparations, which can be made while an expert is trained."""

    def prepare(self) -> None:
        """Get ready to encode."""
