"""Cache arrays between runs, in the user's cache folder.

Each file is named by a hash of everything that its content depends on, so no file is ever stale;
any file may be removed at any time. A corrupt file counts as missing, and a folder that is not
writable is not an error: the arrays are computed again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from condu_cli import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]

LIMIT_BYTES = 1 << 30
"""For each kind; the least recently used files are removed first."""
DIGEST_BYTES = 32
STALE_SECONDS = 3600.0
"""Drafts older than this are abandoned."""


class UserCache:
    """The files of one kind, such as `features`."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    @property
    def folder(self) -> Path:
        """The folder of these files."""
        from platformdirs import user_cache_path

        return user_cache_path("condu") / self._kind

    def load(self, depends_on: Sequence[str]) -> Arrays | None:
        """Return the arrays saved under this key, None if there are none."""
        path = self._path(depends_on)
        try:
            stored = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        content = stored[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != stored[:DIGEST_BYTES]:
            return None
        try:
            arrays: Arrays = from_bytes(content)
        except SafetensorError:
            return None
        return arrays

    def save(self, depends_on: Sequence[str], arrays: Arrays) -> None:
        """Save arrays, and remove old ones if the cache is full."""
        content = to_bytes(dict(arrays))
        if len(content) > LIMIT_BYTES:
            return
        path = self._path(depends_on)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written beside its place and renamed, so that a partial file is never read.
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                draft = Path(folder, path.name)
                draft.write_bytes(hashlib.sha256(content).digest() + content)
                draft.replace(path)
            self._make_room()

    def _path(self, depends_on: Sequence[str]) -> Path:
        text = "\n".join([f"condu {__version__}", *depends_on])
        name = hashlib.sha256(os.fsencode(text)).hexdigest()
        return self.folder / f"{name}.bin"

    def _make_room(self) -> None:
        for draft in self.folder.glob("tmp*"):
            # Left by a killed process: drafts in use are only seconds old.
            if time.time() - draft.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(draft)
        files = [(path.stat(), path) for path in self.folder.glob("*.bin")]
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if total <= LIMIT_BYTES:
                return
            path.unlink()
            total -= stat.st_size
