"""The smallest possible codec: each delta unchanged, no shared part, no patches.

The contract suite runs everything that stores, moves, verifies and decodes experts with it.
"""

from typing import ClassVar

import numpy as np

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.codecs.interface import NO_OPTIONS, EncodedState, UnknownCodecError
from condu_cli.core.merging.checks import check_delta


class PlainCodec:
    """Deltas in float32 or float16; an expert may have its own dtype."""

    name = "plain"
    defaults: ClassVar = {"dtype": "float32"}

    def __init__(self, layout, options):
        self.layout, self.options = layout, {**self.defaults, **options}
        self._dtype(self.options)

    def _dtype(self, options):
        if set(options) != {"dtype"} or options["dtype"] not in ("float32", "float16"):
            raise UnknownCodecError(f"codec {self.name!r} has no options {options}")
        return options["dtype"]

    def encode(self, state, delta, own=NO_OPTIONS):
        check_delta(self.layout, delta)
        dtype = self._dtype({**self.options, **own})
        part = {name: np.asarray(delta[name]).astype(dtype) for name in self.layout.names}
        return EncodedState(None, [*state.parts, part])

    def remove(self, state, index):
        if not 0 <= index < len(state.parts):
            raise IndexError(index)
        return EncodedState(None, [*state.parts[:index], *state.parts[index + 1 :]])

    def decode(self, shared, part):
        for name, shape in zip(self.layout.names, self.layout.shapes, strict=True):
            if name not in part or part[name].shape != shape:
                raise InvalidStateError(name, f"is not a delta of shape {shape}")
            yield name, part[name].astype(np.float32)

    def describe(self, state):
        return [
            {
                "dtype": str(part[self.layout.names[0]].dtype),
                "largest": max(float(np.abs(d).max()) for _, d in self.decode(None, part)),
            }
            for part in state.parts
        ]
