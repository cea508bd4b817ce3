"""What a file is that was taken for a checkpoint: told from its first bytes, nothing is run."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MISFITS = {
    "pointer": "is a pointer to large-file storage, not the file",
    "text": "is a text file, not a checkpoint",
    "program": "is a TorchScript program, not a checkpoint",
}
"""What a file may be instead, in words."""
FIRST = 4096
POINTER = b"version https://git-lfs"
_CONTROLS = bytes(sorted(set(range(32)) - set(b"\t\n\r\f")))


def misfit_of(path: Path) -> str | None:
    """Return the key in `MISFITS` of a file; None if it may be a checkpoint, or cannot be read."""
    try:
        with path.open("rb") as file:
            first = file.read(FIRST)
        if first.startswith(POINTER):
            return "pointer"
        if _is_text(first):
            return "text"
        if zipfile.is_zipfile(path) and _is_program(path):
            return "program"
    except (OSError, zipfile.BadZipFile):
        return None
    return None


def _is_text(first: bytes) -> bool:
    if not first or any(byte in first for byte in _CONTROLS):
        return False
    try:
        first.decode()
    except UnicodeDecodeError as exc:
        return len(first) == FIRST and exc.reason == "unexpected end of data"
    return True


def _is_program(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.endswith("/constants.pkl") or "/code/" in name for name in names)
