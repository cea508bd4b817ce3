"""Experts that are trained and wait to be committed: written first, removed when HEAD has them.

Training takes hours and a commit a second, but the commit is what can fail: a full disk, another
writer, a lost connection. So an expert is on the disk before the lock is even asked for, as one
safetensors file `trained/TASK.SHA256.safetensors`, named by its content as blobs are.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condu_cli.errors import ConduError, IntegrityError
from condu_cli.registry.blobs import METADATA_KEY, BlobReader, write_durably
from condu_cli.registry.durability import flush_folder
from condu_cli.registry.manifest import canonical_json
from condu_cli.registry.names import is_task_name, validate_task_name
from condu_cli.registry.paths import RegistryPaths

_NAME = re.compile(r"(?P<task>.+)\.(?P<sha256>[0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class WaitingExpert:
    """One expert on the disk; `record` is the JSON that was stored with its arrays."""

    task: str
    path: Path
    size: int
    arrays: BlobReader

    @property
    def record(self) -> dict[str, Any]:
        """What was stored beside the arrays."""
        return self.arrays.metadata


class WaitingExperts:
    """The experts in a registry's folder `trained`."""

    def __init__(self, paths: RegistryPaths) -> None:
        self._paths = paths

    def save(
        self, task: str, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
    ) -> WaitingExpert:
        """Write an expert durably; raise ConduError if that is not possible."""
        validate_task_name(task)
        with _described_errors(self._paths.trained):
            self._paths.trained.mkdir(exist_ok=True)  # never removed: others may be writing to it
            flush_folder(self._paths.root)  # or a power cut takes the new folder along
            path = write_durably(
                self._paths.tmp,
                arrays,
                {METADATA_KEY: canonical_json(dict(record))},
                lambda sha256: self._paths.trained / f"{task}.{sha256}.safetensors",
            )
        return self.open(path)

    def paths(self, task: str | None = None) -> list[Path]:
        """Return the files of the experts that wait, or of one task's, the oldest first."""
        found = []
        for path in self._paths.trained.glob("*"):
            match = _named(path)
            if match and task in (None, match["task"]):
                with suppress(FileNotFoundError):  # committed since the listing
                    found.append((path.lstat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def all(self) -> list[WaitingExpert]:
        """Open all experts that wait, the oldest first; raise IntegrityError for a damaged one."""
        found = (self._open_if_there(path) for path in self.paths())
        return [expert for expert in found if expert is not None]

    def _open_if_there(self, path: Path) -> WaitingExpert | None:
        try:
            return self.open(path)
        except IntegrityError:
            if path.exists():  # else it has been committed since the listing
                raise
            return None

    def remove(self, path: Path) -> None:
        """Remove an expert's file: it is committed, or another takes its place."""
        path.unlink(missing_ok=True)

    def open(self, path: Path) -> WaitingExpert:
        """Open one expert's file; raise IntegrityError if it is not one, or not there any more."""
        match = _named(path)
        if match is None:
            raise IntegrityError(f"{path} is not a trained expert", "remove it")
        try:
            reader = BlobReader(path, match["sha256"])
        except IntegrityError as error:
            raise damaged_expert(path, error.message) from error
        return WaitingExpert(match["task"], path, reader.size, reader)


def damaged_expert(path: Path, reason: str) -> IntegrityError:
    """Name the file of a trained expert that cannot be used."""
    return IntegrityError(
        f"the trained expert {path} cannot be used: {reason}",
        "restore the file from a backup, or remove it and train again",
    )


def _named(path: Path) -> re.Match[str] | None:
    match = _NAME.fullmatch(path.name)
    return match if match and is_task_name(match["task"]) else None


@contextmanager
def _described_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConduError(
            f"cannot keep the trained expert under {folder}: {error.strerror or error}",
            "free some space or correct the permissions, then run the command again",
        ) from error
