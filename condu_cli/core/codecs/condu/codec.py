"""The paper's codec: a unified delta that all experts share, and a trigger for each of them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from condu_cli.core.arrays.bits import Array
from condu_cli.core.arrays.coders import DTYPES
from condu_cli.core.arrays.layout import Bits, InvalidStateError, ParameterLayout, Tensors
from condu_cli.core.arrays.platforms import platform_of
from condu_cli.core.codecs.condu import exact
from condu_cli.core.codecs.condu.exact import ExactParameters
from condu_cli.core.codecs.condu.parts import trigger_of
from condu_cli.core.codecs.condu.patches import difference, pairs_of, restore
from condu_cli.core.codecs.condu.stored_masks import encode_mask
from condu_cli.core.codecs.interface import EMPTY, NO_OPTIONS, EncodedState, UnknownCodecError
from condu_cli.core.merging import masks
from condu_cli.core.merging.decouple import Target, decouple, decouple_into, moved, relative_drift
from condu_cli.core.merging.method import Method, Trigger, check_trigger
from condu_cli.core.merging.preparation import prepare
from condu_cli.core.merging.rescalers import GRANULARITIES
from condu_cli.core.merging.unify import Unified, reunify, unify

WORTH_PREPARING = 2_000_000  # parameters
SHARE = re.compile(r"0(\.[0-9]{1,9})?")  # of "trim"


class ConduCodec:
    """The paper's encoding (ConDU, arXiv 2503.10705): a unified delta and triggers.

    Options: "dtype" of the unified delta; granularity of the "rescaler"; "exact", the parameters
    that every task keeps for itself (see `exact`), as selectors and names separated by commas;
    "trim", the share of each row of a new delta that becomes 0 before it is merged. The paper has
    one global rescaler, nothing exact and nothing trimmed.

    The shared part is what `UnifiedDtype.arrays` lists. A task's part is its mask in either form
    of `stored_masks`; "rescaler", float32 (groups,); two float64 (1,): "l1_norm", the norm of its
    merged delta, and "covered_norm", the norm of what it owns in the unified delta; and
    "exact/NAME", float32 of the parameter's shape. (The first parts that were written have
    "rescaler" in float64 and no "covered_norm"; they are read as well.)

    All experts share one unified delta, so an expert cannot have its own options. Raises
    UnknownCodecError for an option or value that it does not know.
    """

    name: ClassVar[str] = "condu"
    defaults: ClassVar[Mapping[str, str]] = {
        "dtype": "float32",
        "rescaler": "row",
        "exact": "vectors,depthwise",
        "trim": "0.5",
    }
    absent: ClassVar[Mapping[str, str]] = {
        "dtype": "float32",
        "rescaler": "global",
        "exact": "",
        "trim": "0",
    }
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
            known = value in self.values.get(option, ()) or option == "exact"
            if not known and not (option == "trim" and SHARE.fullmatch(value)):
                raise UnknownCodecError(f"codec {self.name!r} has no option {option}={value!r}")
        try:
            self._exact = ExactParameters(layout, self.options["exact"])
        except ValueError as error:
            raise UnknownCodecError(f"option 'exact' of codec {self.name!r}: {error}") from error
        trim = Fraction(self.options["trim"])
        merged = self._exact.merged
        self._method = Method(merged, self.options["rescaler"], self.options["dtype"], trim)

    def prepare(self) -> None:
        """Load the inner loops, compiling them on a machine's first run; see `Preparing`."""
        if self._method.layout.count >= WORTH_PREPARING:
            prepare()

    def encode(
        self, state: EncodedState, delta: Tensors, own: Mapping[str, str] = NO_OPTIONS
    ) -> EncodedState:
        """Unify a new delta with the experts of `state`; see `Codec.encode`."""
        if own:
            raise UnknownCodecError(f"codec {self.name!r} has the same options for all experts")
        rest, new = self._exact.taken(delta)
        old = self._split(state.parts)
        unified = unify(self._method, state.shared, self._triggers(old), rest)
        return _encoded(unified, [*(part.exact for part in old), new])

    def remove(self, state: EncodedState, index: int) -> EncodedState:
        """Drop one trigger and unify the rest once more; see `Codec.remove`."""
        if not 0 <= index < len(state.parts):
            raise IndexError(f"no expert {index} among {len(state.parts)}")
        left = [part for position, part in enumerate(state.parts) if position != index]
        if not left:
            return EMPTY
        rest = self._split(left)
        unified = reunify(self._method, self._unified(state.shared), self._triggers(rest))
        return _encoded(unified, [part.exact for part in rest])

    def decode(self, shared: Tensors | None, part: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield one expert's delta tensor by tensor; see `Codec.decode`."""
        unified, one = self._unified(shared), self._exact.split(part)
        merged = decouple(self._method, unified, trigger_of(self._method, one.trigger))
        return self._in_order(one.exact, merged)

    def decode_into(
        self,
        shared: Tensors | None,
        base: Mapping[str, Array],
        parts: Sequence[Tensors],
        weights: Sequence[Mapping[str, Array]],
    ) -> None:
        """Decouple experts straight into weights; see `WritingWeights`."""
        unified = self._unified(shared)
        split = [self._exact.split(part) for part in parts]
        triggers = [trigger_of(self._method, part.trigger) for part in split]
        (own_base, rest_base), *models = self._exact.weights([base, *weights])
        targets = [
            Target(trigger, rest) for trigger, (_, rest) in zip(triggers, models, strict=True)
        ]
        decouple_into(self._method, unified, rest_base, targets)
        for part, (own, _) in zip(split, models, strict=True):
            exact.add_into(own_base, part.exact, own)

    def drifts(self, before: EncodedState, after: EncodedState) -> list[float]:
        """Compare the experts of two states in one pass; see `Measuring`."""
        if not before.parts:
            return []
        old, new = self._split(before.parts), self._split(after.parts)
        earlier, later = (
            Unified(self._unified(state.shared), self._triggers(parts))
            for state, parts in ((before, old), (after, new))
        )
        distances = moved(self._method, earlier, later)
        return [
            relative_drift(
                merged + exact.distance(was.exact, now.exact),
                _norm(was.trigger, "l1_norm", f"tasks[{place}].") + exact.norm(was.exact),
            )
            for place, (merged, was, now) in enumerate(zip(distances, old, new, strict=False))
        ]

    def overlaps(self, before: EncodedState, after: EncodedState) -> list[float]:
        """Return the Jaccard index of what each expert changes; see `Masking`."""
        shared = min(len(before.parts), len(after.parts))
        old, new = (self._split(state.parts[:shared]) for state in (before, after))
        found = []
        for was, now, mask, later in zip(old, new, self._masks(old), self._masks(new), strict=True):
            merged, own = masks.overlap(mask, later), exact.overlap(was.exact, now.exact)
            found.append(masks.Overlap(merged.both + own.both, merged.either + own.either).jaccard)
        return found

    def difference(
        self, newer: EncodedState, older: EncodedState, pairs: Sequence[int | None]
    ) -> dict[str, NDArray[Any]]:
        """Return a patch as described in `patches` and `exact`; see `Patching.difference`."""
        new, old = self._split(newer.parts), self._split(older.parts)
        patch = difference(self._method, _merged(newer, new), _merged(older, old), pairs)
        own = exact.difference([p.exact for p in new], [p.exact for p in old], pairs)
        return patch | own

    def restore(self, newer: EncodedState, patch: Tensors) -> EncodedState:
        """Restore the older state; see `Patching.restore`."""
        new = self._split(newer.parts)
        own, rest = exact.patch_arrays(patch)
        older = restore(self._method, _merged(newer, new), rest)
        kept = [part.exact for part in new]
        found = exact.restored(self._exact.layout, kept, own, pairs_of(rest))
        parts = [
            {**part, **exact.part_arrays(arrays)}
            for part, arrays in zip(older.parts, found, strict=True)
        ]
        return EncodedState(older.shared, parts)

    def describe(self, state: EncodedState) -> list[dict[str, Any]]:
        """Return for each expert, as floats:

        "rescaler"      the L1 norm of its merged delta over that of what it owns in the unified
                        delta: the mean factor, without exact parameters
        "mask_density"  the share of all parameters that it changes, exact ones included, 0..1
        "l1_norm"       the L1 norm of its whole delta, as decoded

        See `Codec.describe`.
        """
        if state.parts or state.shared is not None:
            self._method.stored(self._unified(state.shared))
        return [self._record(part, f"tasks[{place}].") for place, part in enumerate(state.parts)]

    def _record(self, part: Tensors, label: str) -> dict[str, Any]:
        arrays, own = self._exact.split(part, label)
        trigger = trigger_of(self._method, arrays, label)
        check_trigger(self._method, trigger, label)
        norm = _norm(arrays, "l1_norm", label)
        changed, size = masks.count(trigger.mask) + exact.count(own), self.layout.count
        return {
            "rescaler": _mean_rescaler(arrays, norm, label),
            "mask_density": changed / size if size else 0.0,
            "l1_norm": norm + exact.norm(own),
        }

    def _in_order(
        self, own: exact.Arrays, merged: Iterator[tuple[str, NDArray[Any]]]
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield exact and merged tensors in the layout's order."""
        for name in self.layout.names:
            yield (name, own[name]) if name in own else next(merged)

    def _unified(self, shared: Tensors | None) -> Tensors:
        if shared is None:
            raise InvalidStateError(self.layout.names[0], "is missing: no unified delta")
        return shared

    def _split(self, parts: Sequence[Tensors]) -> list[exact.Part]:
        return [self._exact.split(part, f"tasks[{i}].") for i, part in enumerate(parts)]

    def _triggers(self, parts: Sequence[exact.Part]) -> list[Trigger]:
        return [
            trigger_of(self._method, part.trigger, f"tasks[{i}].") for i, part in enumerate(parts)
        ]

    def _masks(self, parts: Sequence[exact.Part]) -> Iterator[Bits]:
        for position, trigger in enumerate(self._triggers(parts)):
            check_trigger(self._method, trigger, f"tasks[{position}].")
            yield np.asarray(trigger.mask)


def _merged(state: EncodedState, parts: Sequence[exact.Part]) -> EncodedState:
    """Return a state without its exact deltas."""
    return EncodedState(state.shared, [part.trigger for part in parts])


def _encoded(unified: Unified, own: Sequence[exact.Arrays]) -> EncodedState:
    """Return the state as numpy arrays, wherever it was unified."""
    host = platform_of(unified.unified.values()).host
    parts: list[Tensors] = [
        {
            **encode_mask(host(trigger.mask)),
            "rescaler": host(trigger.rescaler),
            "l1_norm": np.array([norm]),
            "covered_norm": np.array([covered]),
            **exact.part_arrays(arrays),
        }
        for trigger, norm, covered, arrays in zip(
            unified.triggers, unified.norms, unified.covered, own, strict=True
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
