"""Choose the implementation of the inner loops: compiled by numba, or array operations.

The compiled loops take a second to load from the cache, and many seconds on a machine's first run:
array operations finish little work sooner. docs/fusion.md has the figures.
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
    """Return the loops for this much work: parameters times tasks.

    An argument or `CONDU_KERNELS` overrides the choice. Compiled loops that are already loaded, see
    `prepare`, are always used. Without numba it is always `vectorised`, unless `compiled` was
    requested: then ImportError is raised. Raises ValueError for an unknown name.
    """
    wanted = implementation or os.environ.get(ENVIRONMENT)
    if wanted is not None:
        if wanted not in IMPLEMENTATIONS:
            raise ValueError(f"kernels must be one of {IMPLEMENTATIONS}, not {wanted!r}")
        return import_module(f"condu_cli.core.passes.{wanted}")
    if elements < WORTH_COMPILING and COMPILED not in sys.modules:
        return vectorised
    return compiled_loops() or vectorised


@cache
def compiled_loops() -> ModuleType | None:
    """Return the compiled loops, or None if numba cannot be imported."""
    try:
        return import_module(COMPILED)
    except ImportError:
        return None


def threads() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
