"""List files and sizes while other processes create and remove files."""

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield every file below `root` with its size in bytes; links are not followed.

    A file or folder that disappears in the meantime is skipped.
    """
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = Path(folder, name)
            try:
                yield path, path.lstat().st_size
            except FileNotFoundError:  # a writer removed it since the listing
                continue


def bytes_below(root: Path) -> int:
    """Return the bytes of all files below `root`."""
    return sum(size for _, size in files_below(root))
