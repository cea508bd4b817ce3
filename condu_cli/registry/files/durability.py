"""Flushing to the disk: a rename is only as safe as the folder that records it."""

import os
from pathlib import Path


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
