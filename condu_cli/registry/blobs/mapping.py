"""Files mapped into memory, each without a descriptor of its own.

Python's mmap keeps a duplicate of the descriptor for as long as the mapping lives (before 3.13,
where it can be told not to), so that a session of a thousand tasks would need thousands of open
files, more than most systems allow a process. A mapping itself needs none: it is readable to its
end also after the file was closed, and removed.
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
    """Map a file read-only; the mapping lives as long as this view and views made from it.

    Raises OSError if that is not possible, ValueError for an empty file.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise ValueError("the file is empty")
        if os.name == "nt":  # where no small limit counts them
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
    # Not at exit: a thread may still read then, and the process gives everything back anyway.
    weakref.finalize(pages, library.munmap, address, size).atexit = False
    return memoryview(pages).toreadonly().cast("B")


@cache
def _library() -> Any:
    """Return the C library that this process runs on."""
    library = ctypes.CDLL(None, use_errno=True)
    size, number = ctypes.c_size_t, ctypes.c_int
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, size, number, number, number, ctypes.c_long]
    library.munmap.argtypes = [ctypes.c_void_p, size]
    return library
