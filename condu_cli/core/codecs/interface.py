"""What a codec is: how experts are encoded as one shared part and one part per task.

Whatever stores, moves, verifies, counts or decodes experts goes through `Codec` and assumes
nothing else. Some codecs can do more, or the same faster; each such capability is a protocol of
its own here, and `operations` falls back on `Codec` where a codec lacks it. Parts are plain
mappings from name to array; those passed in may load lazily, every tensor is read once.
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
    """All experts: the shared part (None where there is none) and one part per task, in order."""

    shared: Tensors | None
    parts: Sequence[Tensors]


EMPTY = EncodedState(shared=None, parts=())
"""The state without any expert, the same for every codec."""


class Codec(Protocol):
    """Encodes a new expert into the state and decodes one expert out of it.

    A codec keeps no state of its own, so that one instance serves a whole command.
    """

    @property
    def name(self) -> str:
        """The name that a registry keeps and `codec_by_name` knows."""

    @property
    def layout(self) -> ParameterLayout:
        """The parameters of every delta, in the registry's order."""

    @property
    def options(self) -> Mapping[str, str]:
        """Every option with its value, as a registry keeps them."""

    def encode(
        self, state: EncodedState, delta: Tensors, own: Mapping[str, str] = NO_OPTIONS
    ) -> EncodedState:
        """Add one expert, last; the old ones keep their order. `state` is left as it is.

        `own` are options in which this expert differs from the others. Its part says by itself
        how it is to be decoded. Raises InvalidDeltaError or InvalidStateError naming what is
        wrong, UnknownCodecError for an option that no expert can have for itself.
        """

    def remove(self, state: EncodedState, index: int) -> EncodedState:
        """Take one expert out; the others keep their order. `state` is left as it is.

        Raises IndexError where there is no such expert, InvalidStateError for a corrupt state.
        """

    def decode(self, shared: Tensors | None, part: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield (parameter, float32 delta) of one expert, one tensor at a time.

        Raises InvalidStateError naming the tensor that does not have its promised form.
        """

    def describe(self, state: EncodedState) -> list[dict[str, Any]]:
        """What there is to say of each expert: a record of JSON values, the same on any machine.

        Registries keep it beside the part, and `verify` compares it with the part again. Every
        array of the state is checked; raises InvalidStateError naming the one that does not have
        its promised form.
        """


class CodecFactory(Protocol):
    """What makes codecs of one name: usually their class.

    `defaults` are the options that a new registry gets where nothing else is asked for. They may
    change from one version to the next; what the absence of an option means in a record that is
    written may not, so that it is the factory's constructor which knows it.
    """

    @property
    def name(self) -> str:
        """The name that a registry keeps."""

    @property
    def defaults(self) -> Mapping[str, str]:
        """Every option, with its value in a registry that is created today."""

    def __call__(self, layout: ParameterLayout, options: Mapping[str, str]) -> Codec:
        """The codec with the options of a record; one that it lacks means what it meant then.

        Raises UnknownCodecError for an option or value that there is not.
        """


@runtime_checkable
class Patching(Protocol):
    """A codec that can store an older state as a patch on a newer one of the same options."""

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


@runtime_checkable
class Measuring(Protocol):
    """A codec that compares two states of its own options without decoding every expert."""

    def drifts(self, before: EncodedState, after: EncodedState) -> list[float]:
        """How far each expert of `before` moved, relative to its L1 norm; `after` may have more.

        Raises InvalidStateError naming what is wrong.
        """


@runtime_checkable
class Masking(Protocol):
    """A codec whose experts own some of the parameters and not the others."""

    def overlaps(self, before: EncodedState, after: EncodedState) -> list[float]:
        """How much of what each expert changes is the same in both states, 0 to 1 (Jaccard).

        |M before & M after| / |M before | M after|, 1 for two empty masks, of the experts that
        both states hold at the same place. Raises InvalidStateError naming what is wrong.
        """


@runtime_checkable
class WritingWeights(Protocol):
    """A codec that writes experts into weights without making their deltas first."""

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
    """A codec that can do while an expert is trained what would take time afterwards."""

    def prepare(self) -> None:
        """Get ready to encode."""
