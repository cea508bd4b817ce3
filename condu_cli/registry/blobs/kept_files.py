"""Files of a task that is not committed yet: unfinished trainings and trained experts.

Training takes hours and a commit takes a second, but either can fail: a power cut, a full disk,
another writer. So a training saves checkpoints, and its expert is on disk before the lock is even
requested. Each is one safetensors file `TASK.SHA256.safetensors`, named by its content as blobs
are, in a folder for its kind. A file is removed once HEAD has what it was kept for.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from condu_cli.disk import flush_folder
from condu_cli.errors import ConduError, IntegrityError
from condu_cli.registry.blobs.store import METADATA_KEY, BlobReader, write_durably
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.manifest import canonical_json
from condu_cli.registry.names import is_task_name, validate_task_name

_NAME = re.compile(r"(?P<task>.+)\.(?P<sha256>[0-9a-f]{64})\.safetensors")


class KeptFile(BlobReader):
    """One such file: its arrays, read lazily; `metadata` is the record stored with them."""

    def __init__(self, path: Path, task: str, sha256: str) -> None:
        super().__init__(path, sha256)
        self.path = path
        self.task = task

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays whose names begin with `prefix`, keyed by the rest of the name."""
        return {n.removeprefix(prefix): self[n] for n in self if n.startswith(prefix)}


class TaskFiles:
    """One folder of such files in a registry; `what` says in words what they are.

    `in_backups`: whether backups of the registry include them.
    """

    def __init__(
        self, paths: RegistryPaths, folder: Path, what: str, *, in_backups: bool = True
    ) -> None:
        self._paths = paths
        self._folder = folder
        self._what = what
        self._in_backups = in_backups

    def save(
        self, task: str, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
    ) -> KeptFile:
        """Write a file durably; raise ConduError if that fails."""
        validate_task_name(task)
        with _described_errors(self._folder, self._what):
            self._folder.mkdir(exist_ok=True)  # never removed: other processes may write to it
            flush_folder(self._paths.root)  # or a power cut could lose the new folder
            path = write_durably(
                self._paths.tmp,
                arrays,
                {METADATA_KEY: canonical_json(dict(record))},
                lambda sha256: self._folder / f"{task}.{sha256}.safetensors",
            )
        return self.open(path)

    def task_of(self, path: Path) -> str:
        """Return the task that a file of this folder belongs to."""
        match = _named(path)
        return "" if match is None else match["task"]

    def paths(self, task: str | None = None) -> list[Path]:
        """Return the files of one task or of all, oldest first."""
        found = []
        for path in self._folder.glob("*"):
            match = _named(path)
            if match and task in (None, match["task"]):
                with suppress(FileNotFoundError):  # committed since the listing
                    found.append((path.lstat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def all(self) -> list[KeptFile]:
        """Open all files, oldest first; raise IntegrityError for a corrupt one."""
        found = (self.open_if_there(path) for path in self.paths())
        return [expert for expert in found if expert is not None]

    def open_if_there(self, path: Path) -> KeptFile | None:
        """Open one file; return None if it was removed since it was listed."""
        try:
            return self.open(path)
        except IntegrityError:
            if path.exists():  # otherwise it was committed since the listing
                raise
            return None

    def unknown(self) -> Iterator[Path]:
        """Yield everything else in the folder: other files, folders, links."""
        for path in sorted(self._folder.glob("*")):
            if _named(path) is None or path.is_symlink() or not path.is_file():
                yield path

    def remove(self, path: Path) -> None:
        """Remove a file that HEAD, or a newer file, has made unnecessary."""
        path.unlink(missing_ok=True)

    def open(self, path: Path) -> KeptFile:
        """Open one file; raise IntegrityError if it is missing, corrupt or not such a file."""
        match = _named(path)
        if match is None:
            raise IntegrityError(
                f"{path} is not a {self._what}", reason="kept-file-unknown", path=path
            )
        try:
            return KeptFile(path, match["task"], match["sha256"])
        except IntegrityError as error:
            raise self.unusable(path, error) from error

    def verified_record(self, file: KeptFile) -> dict[str, Any]:
        """Hash a file's bytes and return its record; raise IntegrityError if it is corrupt."""
        try:
            file.verify()
            return file.metadata
        except IntegrityError as error:
            raise self.unusable(file.path, error) from error

    def unusable(self, path: Path, why: str | IntegrityError) -> IntegrityError:
        """Build the error about a file; `why` follows its name, or is its reader's error."""
        unreadable = isinstance(why, IntegrityError) and why.reason == "blob-unreadable"
        reason = _without_blob(why) if isinstance(why, IntegrityError) else why
        return IntegrityError(
            f"the {self._what} {path} {reason}",
            unreadable=unreadable,
            reason="kept-file-corrupt",
            path=path,
            task=self.task_of(path),
            in_backups=self._in_backups,
        )


def _without_blob(error: IntegrityError) -> str:
    """Return a reader's message without the blob's name: the file is not a blob."""
    return error.message.removeprefix(f"blob {error.facts.get('blob')} ")


def _named(path: Path) -> re.Match[str] | None:
    match = _NAME.fullmatch(path.name)
    return match if match and is_task_name(match["task"]) else None


@contextmanager
def _described_errors(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConduError(
            f"cannot keep the {what} under {folder}: {error.strerror or error}",
            reason="cannot-write",
            path=folder,
        ) from error
