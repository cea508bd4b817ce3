"""Load the compiled loops before they are needed, by running each once on tiny input."""

from __future__ import annotations

import numpy as np

from condu_cli.core.arrays.layout import ParameterLayout
from condu_cli.core.merging.decouple import Target, decouple_into, moved
from condu_cli.core.merging.method import Method
from condu_cli.core.merging.unify import unify
from condu_cli.core.passes import kernels
from condu_cli.core.passes.streaming import Execution


def prepare() -> None:
    """Compile, or load from the cache, the loops of unify, decouple, drift and reverse patches.

    Takes a second, or many on a machine's first run; does nothing without numba.
    """
    loops = kernels.compiled_loops()
    if loops is None:
        return
    layout = ParameterLayout(("warm",), ((64,),))
    method, run = Method(layout), Execution(threads=1, kernels="compiled")
    delta = {"warm": np.ones(64, dtype=np.float32)}
    first = unify(method, None, [], delta, run)
    second = unify(method, first.unified, first.triggers, delta, run)
    moved(method, first, second, run)
    for array in second.unified.values():
        array.flags.writeable = False  # like memory-mapped arrays, which compile separately
    weights = {"warm": np.empty(64, dtype=np.float32)}
    decouple_into(method, second.unified, delta, [Target(second.triggers[0], weights)], run)
    loops.largest(np.ones((1, 1, 1), np.uint64), np.ones((1, 1)), np.empty((1, 64), np.float32))
