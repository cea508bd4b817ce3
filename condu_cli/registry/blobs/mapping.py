"""Memory-mapped files that hold no file descriptor.

Before Python 3.13, mmap keeps a duplicate of the descriptor for as long as the mapping lives, so a
session of a thousand tasks would need thousands of open files, more than most systems allow a
process. The mapping itself needs no descriptor: it stays readable after the file is closed, and
even after it is removed.
"""

import ctypes
import mmap
import os
import sys
import weakref
from functools import cache
from pathlib import Path
from typing import Any

_FAILED = ctypes.c_void_p(-1).value


def map_file(path: Path) -> memoryview:
    """Map a file read-only; the mapping lives as long as this view and any view of it.

    Raises OSError if the file cannot be mapped, ValueError if it is empty.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise ValueError("the file is empty")
        if os.name == "nt":  # Windows has no low limit on open files
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if sys.version_info >= (3, 13):
            return memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ, trackfd=False))
        return _mapped(file.fileno(), size)


def _mapped(descriptor: int, size: int) -> memoryview:
    library = _library()
    address = library.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    pages = (ctypes.c_ubyte * size).from_address(address)
    # Not at exit: a thread may still be reading, and the system frees the memory anyway.
    weakref.finalize(pages, library.munmap, address, size).atexit = False
    return memoryview(pages).toreadonly().cast("B")


@cache
def _library() -> Any:
    """Return the C library of this process."""
    library = ctypes.CDLL(None, use_errno=True)
    size, number = ctypes.c_size_t, ctypes.c_int
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, size, number, number, number, ctypes.c_long]
    library.munmap.argtypes = [ctypes.c_void_p, size]
    return library
