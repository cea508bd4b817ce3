"""What every room that writes files needs: flushing, modes of new files, the folder a path is in.

A rename is only as safe as the folder that records it. This module is below all rooms.
"""

import os
from pathlib import Path

from condu_cli.errors import UsageError


def flush_file(path: Path) -> None:
    """Return once the file's bytes are on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Return once the folder's entries (new names, renames) are on the disk."""
    if os.name == "nt":  # Windows cannot open a folder, and flushes its entries by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mode_of_new_file(path: Path) -> int:
    """The mode that the umask gives to a new file; `path` is made for that, and removed again.

    safetensors leaves 0600 whatever the umask, and asking for the umask would have to change it.
    """
    with path.open("xb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
    # Before anything takes its name: a rename onto a file makes some file systems flush at once.
    path.unlink()
    return mode


def nearest_existing(path: Path) -> Path:
    """The path itself if it is there, else the innermost folder above it that is."""
    while not path.exists():
        path = path.parent
    return path


def require_parent_folder(path: Path) -> None:
    """Raise UsageError unless there is a folder to write a file or folder of this name in.

    A mistyped output is refused, as other programs do; only a registry's own place is made with
    the folders above it, as `git init` and `git clone` do.
    """
    if not path.parent.is_dir():
        raise UsageError(
            f"{path}: there is no folder {path.parent}",
            reason="no-parent-folder",
            path=path,
            parent=path.parent,
        )
