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
            self._paths.trained.mkdir(exist_ok=True)
            flush_folder(self._paths.root)  # or a power cut takes the new folder along
            path = write_durably(
                self._paths.tmp,
                arrays,
                {METADATA_KEY: canonical_json(dict(record))},
                lambda sha256: self._paths.trained / f"{task}.{sha256}.safetensors",
            )
        return self.open(path)

    def all(self) -> list[WaitingExpert]:
        """Return the experts that wait, the oldest first.

        Raises IntegrityError for a file that is not one.
        """
        return [self.open(path) for path in self.paths()]

    def paths(self) -> list[Path]:
        """Return the files of the experts that wait, the oldest first."""
        found = []
        for path in self._paths.trained.glob("*"):
            if _named(path):
                with suppress(FileNotFoundError):  # committed since the listing
                    found.append((path.lstat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def of_task(self, task: str) -> list[WaitingExpert]:
        """Return those of one task, the oldest first."""
        return [expert for expert in self.all() if expert.task == task]

    def remove(self, expert: WaitingExpert) -> None:
        """Remove an expert's file: it is committed, or another takes its place."""
        expert.path.unlink(missing_ok=True)
        with suppress(OSError):  # others wait
            self._paths.trained.rmdir()

    def open(self, path: Path) -> WaitingExpert:
        """Open one expert's file; raise IntegrityError if it is not one."""
        match = _named(path)
        if match is None:
            raise IntegrityError(f"{path} is not a trained expert", "remove it")
        reader = BlobReader(path, match["sha256"])
        return WaitingExpert(match["task"], path, reader.size, reader)


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
