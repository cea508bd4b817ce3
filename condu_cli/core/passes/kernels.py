"""Which implementation of the inner loops runs: compiled by numba, or array operations.

The compiled loops take a second to start, from the cache, and many on a machine's first run: on
little work array operations are done before. docs/fusion.md has the figures of both.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from condu_cli.core.passes import vectorised

if TYPE_CHECKING:
    from types import ModuleType

WORTH_COMPILING = 100_000_000  # elements, counted once for each task
IMPLEMENTATIONS = ("compiled", "vectorised")
ENVIRONMENT = "CONDU_KERNELS"
COMPILED = "condu_cli.core.passes.compiled"


def choose(elements: int, implementation: str | None = None) -> ModuleType:
    """The loops for so much work: parameters times tasks; `CONDU_KERNELS` or an argument insist.

    Compiled loops that are there already, see `prepare`, are always used.

    Without numba it is always `vectorised`, unless `compiled` was asked for by name: then
    ImportError says why it is not available. Raises ValueError for another name.
    """
    wanted = implementation or os.environ.get(ENVIRONMENT)
    if wanted is not None:
        if wanted not in IMPLEMENTATIONS:
            raise ValueError(f"kernels are one of {IMPLEMENTATIONS}, not {wanted!r}")
        return import_module(f"condu_cli.core.passes.{wanted}")
    if elements < WORTH_COMPILING and COMPILED not in sys.modules:
        return vectorised
    return compiled_loops() or vectorised


@cache
def compiled_loops() -> ModuleType | None:
    """The compiled loops, or None where numba is missing or cannot be imported."""
    try:
        return import_module(COMPILED)
    except ImportError:
        return None


def threads() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
