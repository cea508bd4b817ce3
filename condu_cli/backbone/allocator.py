"""Have the C library keep the memory that a model frees, for what the model allocates next.

glibc gives every freed block above 32 MB, and every free end of the heap, back to the system at
once. The activations of a training step are such blocks: each step returned gigabytes and faulted
them in again, page by page, which took a third of its processor time (docs/training.md). Kept, the
process stays at the size of its largest step.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`, from malloc.h."""
NEVER = -1
"""As a trim threshold: more than any heap's free end."""


@cache
def keep_freed_memory() -> bool:
    """Tell glibc, once per process, to keep freed memory; return whether it was told.

    Call it before the first large allocation. It does nothing with another C library, with another
    allocator in glibc's place (LD_PRELOAD), or if the user configured malloc.
    """
    libc = _glibc()
    if libc is None or _is_configured(os.environ):
        return False
    # Both are needed: setting only the second would also freeze the limit above which blocks are
    # mapped, and so given back, at 128 kB. A larger M_TOP_PAD on top saved nothing measurable.
    kept = [libc.mallopt(M_MMAP_MAX, 0), libc.mallopt(M_TRIM_THRESHOLD, NEVER)]
    return all(kept)


def _is_configured(environment: Mapping[str, str]) -> bool:
    """Return whether the environment has settings of malloc: those of mallopt(3) or tunables."""
    tunables = environment.get("GLIBC_TUNABLES", "")
    return "glibc.malloc." in tunables or any(n.startswith("MALLOC_") for n in environment)


def _glibc() -> Any:
    """Return glibc if it is what allocates this process's memory, else None."""
    if sys.platform != "linux":
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # musl, for example
        return None
    is_glibc = hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")
    return libc if is_glibc and _address(libc) == _address(ctypes.CDLL(None)) else None


def _address(library: ctypes.CDLL) -> int | None:
    """Return where a library's `malloc` is; for the whole program, the one that is in use."""
    return ctypes.cast(library.malloc, ctypes.c_void_p).value
