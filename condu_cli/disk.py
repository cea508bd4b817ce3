"""What every room that touches files needs: flushing, modes of new files, folders, small JSON.

A rename is only as safe as the folder that records it. This module is below all rooms.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from condu_cli.errors import UsageError
from condu_cli.texts import fault_in

_OF_SYSTEMS = re.compile(
    r"lost\+found|\.DS_Store|\._.*|\.Trash(es|-\d+)|\.fseventsd|\.Spotlight-V100|\.TemporaryItems|"
    r"\.VolumeIcon\.icns|Thumbs\.db|desktop\.ini|System Volume Information|\$RECYCLE\.BIN|@eaDir|"
    r"\.directory|\.nfs[0-9a-f]+",
    re.IGNORECASE,
)


def flush_file(path: Path) -> None:
    """Flush a file's bytes to disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Flush a folder's entries (new names, renames) to disk."""
    if os.name == "nt":  # Windows cannot open a folder, and flushes its entries itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mode_of_new_file(path: Path) -> int:
    """Return the mode that the umask gives a new file; creates and removes `path` to find out.

    safetensors sets 0600 whatever the umask, which can be read only by changing it.
    """
    with path.open("xb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
    # Gone before anything takes its name: renaming onto a file makes some file systems flush.
    path.unlink()
    return mode


def json_object(path: Path, limit: int) -> dict[str, Any] | None:
    """Read a JSON object from a file of at most `limit` bytes; None if it is something else.

    Raises:
        OSError: it cannot be read.
        ValueError, RecursionError: it is not JSON.

    """
    with path.open("rb") as file:
        content = file.read(limit + 1)
    found = json.loads(content) if len(content) <= limit else None
    return found if isinstance(found, dict) else None


def contents_of(folder: Path) -> list[Path]:
    """Return what a folder holds, but not what systems put into empty volumes and folders."""
    return [path for path in folder.iterdir() if not _OF_SYSTEMS.fullmatch(path.name)]


def nearest_existing(path: Path) -> Path:
    """Return the path if it exists, else the innermost parent that does."""
    while not path.exists():
        path = path.parent
    return path


@contextmanager
def named_in_utf8(path: Path) -> Iterator[Path]:
    """Yield a path to the same file for libraries that know no other names than UTF-8."""
    if fault_in(str(path)) is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="condu-") as folder:
        link = Path(folder, f"file{path.suffix}")
        link.symlink_to(path.absolute())
        yield link


def require_parent_folder(path: Path) -> None:
    """Raise UsageError unless the parent folder of an output exists.

    A mistyped path is refused, as by other programs. Only a registry is created with its parent
    folders, as by `git init` and `git clone`.
    """
    if not path.parent.is_dir():
        raise UsageError(
            f"{path}: no such folder: {path.parent}",
            reason="no-parent-folder",
            path=path,
            parent=path.parent,
        )
