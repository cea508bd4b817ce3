"""Space on the disk that the lock's holder may use when there is no other.

SQLite cannot write a single row on a disk without a free byte, not even that a session is to be
removed. So a registry keeps a file that nothing reads. A writer that finds the disk full removes it
first, so that `gc`, `rollback`, `forget` and `tag` work; `gc` makes it again.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

RESERVE = 1 << 20
"""Bytes: more than the log of a collection of hundreds of sessions."""
PLENTY = 16 * RESERVE
"""No reserve is made on a disk with less than this, which may belong to others."""


def give_up(path: Path) -> None:
    """Remove the reserve at `path` if the disk has less than another one."""
    with suppress(OSError):  # then the writer's own error says what is wrong
        if shutil.disk_usage(path.parent).free < RESERVE:
            path.unlink(missing_ok=True)


def keep(path: Path) -> None:
    """Make sure that the reserve exists if the disk has plenty; a writer does not fail for it."""
    with suppress(OSError):
        if path.is_symlink() or (path.exists() and path.stat().st_size == RESERVE):
            return
        if shutil.disk_usage(path.parent).free > PLENTY:
            _write(path)


def _write(path: Path) -> None:
    draft = path.with_name(f"{path.name}.partial")
    try:
        draft.unlink(missing_ok=True)
        with draft.open("xb") as file:
            file.write(os.urandom(RESERVE))  # a file system may store zeros in no space at all
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
