"""Immutable tensors in files named by their sha256, written so that a crash leaves no half.

A blob is a safetensors file at `blobs/ab/abcd…`. Nothing is ever unpickled or overwritten with
other content; the same content has the same bytes and therefore is stored once.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condu_cli.errors import ConduError, IntegrityError
from condu_cli.registry.durability import flush_file, flush_folder
from condu_cli.registry.manifest import canonical_json
from condu_cli.registry.names import is_sha256, validate_sha256
from condu_cli.registry.paths import RegistryPaths

METADATA_KEY = "condu"
_CHUNK = 1 << 20
_DAMAGED_HINT = "go back to an older session with `condu rollback`, or restore the file from a copy"


@dataclass(frozen=True)
class BlobRef:
    """The name and the size in bytes of a blob that is on disk."""

    sha256: str
    size: int


class BlobReader(Mapping[str, np.ndarray]):
    """The tensors of one blob; each is read when it is asked for."""

    def __init__(self, path: Path, sha256: str) -> None:
        self._sha256 = sha256
        self._file = _open_safetensors(path, sha256)
        self._names: list[str] = list(self._file.keys())

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        try:
            tensor: np.ndarray = self._file.get_tensor(name)
        except Exception as error:
            raise _damaged(self._sha256, str(error)) from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def metadata(self) -> dict[str, Any]:
        """The JSON record that was stored with the tensors; empty if there was none."""
        text = (self._file.metadata() or {}).get(METADATA_KEY)
        if text is None:
            return {}
        try:
            record = json.loads(text)
        except ValueError as error:
            raise _damaged(self._sha256, f"its metadata is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise _damaged(self._sha256, "its metadata is not a JSON object")
        return record


class BlobStore:
    """The blobs of one registry."""

    def __init__(self, paths: RegistryPaths) -> None:
        self._paths = paths

    def put(
        self, tensors: Mapping[str, np.ndarray], *, metadata: Mapping[str, Any] | None = None
    ) -> BlobRef:
        """Store `tensors` durably and return the blob's name; the same content is stored once."""
        draft = self._paths.tmp / f"{os.getpid()}-{secrets.token_hex(8)}.safetensors"
        try:
            _write_safetensors(draft, tensors, metadata)
            flush_file(draft)
            ref = BlobRef(_sha256_of(draft), draft.stat().st_size)
            self._move_into_place(draft, ref)
        except OSError as error:
            raise _cannot_write(self._paths.blobs, error) from error
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        return ref

    def open(self, sha256: str) -> BlobReader:
        """Return the blob's tensors, read lazily; raise IntegrityError if it is not whole."""
        return BlobReader(self.path(sha256), sha256)

    def load(self, sha256: str, *, verify: bool = False) -> dict[str, np.ndarray]:
        """Return all tensors of the blob, with `verify` only after hashing its bytes."""
        if verify:
            self.verify(sha256)
        return dict(self.open(sha256))

    def metadata(self, sha256: str) -> dict[str, Any]:
        """Return the JSON record that was stored with the tensors."""
        return self.open(sha256).metadata

    def size(self, sha256: str) -> int:
        """Return the blob's size on disk in bytes."""
        try:
            return self.path(sha256).stat().st_size
        except OSError as error:
            raise _unreadable(sha256, error) from error

    def path(self, sha256: str) -> Path:
        """Return where the blob lies, whether it is there or not."""
        return self._paths.blobs / validate_sha256(sha256)[:2] / sha256

    def exists(self, sha256: str) -> bool:
        """Say whether there is a file for the blob; `verify` says whether it is sound."""
        return self.path(sha256).is_file()

    def verify(self, sha256: str) -> None:
        """Hash the blob's bytes; raise IntegrityError if they are not what was written."""
        try:
            actual = _sha256_of(self.path(sha256))
        except OSError as error:
            raise _unreadable(sha256, error) from error
        if actual != sha256:
            raise _damaged(sha256, "its bytes have another sha256")

    def all(self) -> Iterator[BlobRef]:
        """Yield every blob on disk in the order of names, referenced or not."""
        for path in sorted(self._paths.blobs.glob("??/*")):
            if is_sha256(path.name) and path.parent.name == path.name[:2]:
                with suppress(FileNotFoundError):  # removed by a collector since the listing
                    yield BlobRef(path.name, path.stat().st_size)

    def _move_into_place(self, draft: Path, ref: BlobRef) -> None:
        path = self.path(ref.sha256)
        # A sound blob is kept: others may be reading it. One that was damaged from outside is
        # replaced by the sound copy at hand.
        if path.is_file() and _sha256_of(path) == ref.sha256:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(path)
        flush_folder(path.parent)
        flush_folder(self._paths.blobs)


def _write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None
) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # safetensors orders several metadata keys at random; one key keeps the bytes the same.
    header = None if metadata is None else {METADATA_KEY: canonical_json(dict(metadata))}
    # safetensors leaves mode 0600 whatever the umask; a file of our own shows the wanted mode.
    with path.open("xb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
    try:
        save_file({name: _plain(tensor) for name, tensor in tensors.items()}, path, header)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)


def _plain(tensor: np.ndarray) -> np.ndarray:
    """Return `tensor` in C order and native bytes: safetensors writes memory as it lies."""
    return np.asarray(tensor, dtype=tensor.dtype.newbyteorder("="), order="C")


def _open_safetensors(path: Path, sha256: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except OSError as error:
        raise _unreadable(sha256, error) from error
    except SafetensorError as error:
        raise _damaged(sha256, str(error)) from error


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _cannot_write(folder: Path, error: OSError) -> ConduError:
    return ConduError(
        f"cannot write a blob under {folder}: {error.strerror or error}",
        "free some space or correct the permissions, then run the command again; "
        "the registry is as it was",
    )


def _unreadable(sha256: str, error: OSError) -> IntegrityError:
    missing = isinstance(error, FileNotFoundError)
    reason = "missing" if missing else f"unreadable: {error.strerror or error}"
    return IntegrityError(f"blob {sha256} is {reason}", _DAMAGED_HINT)


def _damaged(sha256: str, reason: str) -> IntegrityError:
    return IntegrityError(f"blob {sha256} is damaged: {reason}", _DAMAGED_HINT)
