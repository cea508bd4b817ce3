"""Immutable tensors in files named by their sha256, written so that a crash leaves no half.

A blob is a safetensors file at `blobs/ab/abcd…`. Nothing is ever unpickled or overwritten with
other content; the same content has the same bytes and therefore is stored once.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condu_cli.errors import ConduError, IntegrityError
from condu_cli.registry.durability import flush_file, flush_folder
from condu_cli.registry.manifest import canonical_json
from condu_cli.registry.names import is_sha256, validate_sha256
from condu_cli.registry.paths import RegistryPaths
from condu_cli.registry.tensor_files import TensorFile, TensorFileError, write_tensor_file

METADATA_KEY = "condu"
_CHUNK = 1 << 20
_THREADS = min(4, os.cpu_count() or 1)
_DAMAGED_HINT = "go back to an older session with `condu rollback`, or restore the file from a copy"


@dataclass(frozen=True)
class BlobRef:
    """The name and the size in bytes of a blob that is on disk."""

    sha256: str
    size: int


class BlobReader(Mapping[str, np.ndarray]):
    """The tensors of one blob: read-only views on the mapped file, which may outlive the reader."""

    def __init__(self, path: Path, sha256: str) -> None:
        self._sha256 = sha256
        try:
            self._file = TensorFile(path)
        except OSError as error:
            raise _unreadable(sha256, error) from error
        except TensorFileError as error:
            raise _damaged(sha256, str(error)) from error
        self._names = dict.fromkeys(self._file.names)
        self._views: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._views:
            try:
                self._views[name] = self._file.view(name)
            except TensorFileError as error:
                raise _damaged(self._sha256, str(error)) from error
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def metadata(self) -> dict[str, Any]:
        """The JSON record that was stored with the tensors; empty if there was none."""
        text = self._file.metadata.get(METADATA_KEY)
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
        return self._put_each([tensors], metadata)[0]

    def put_all(self, mappings: Iterable[Mapping[str, np.ndarray]]) -> list[BlobRef]:
        """Store each of `mappings` as `put` does, several at a time, and return their names.

        An iterator is drawn from in the calling thread, and is never ahead of the blobs being
        written by more than one mapping. If one fails, its error is raised and the drafts are
        removed; a blob that is in place by then stays, unreferenced.
        """
        return self._put_each(mappings, None)

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

    def _put_each(
        self, mappings: Iterable[Mapping[str, np.ndarray]], metadata: Mapping[str, Any] | None
    ) -> list[BlobRef]:
        drafts: list[Path] = []
        written: list[Future[BlobRef]] = []
        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                for tensors in mappings:
                    _wait_for_a_thread(written)
                    draft = self._paths.tmp / f"{os.getpid()}-{secrets.token_hex(8)}.safetensors"
                    drafts.append(draft)
                    written.append(pool.submit(self._write_draft, draft, [tensors], metadata))
                refs = [future.result() for future in written]
            with _described_errors(self._paths.blobs):
                self._move_into_place(drafts, refs)
        finally:
            for draft in drafts:
                with suppress(OSError):
                    draft.unlink(missing_ok=True)
        return refs

    def _write_draft(
        self, draft: Path, box: list[Mapping[str, np.ndarray]], metadata: Mapping[str, Any] | None
    ) -> BlobRef:
        """Write and flush the mapping in `box`; taken out of it, it is freed once it is written."""
        # safetensors orders several metadata keys at random; one key keeps the bytes the same.
        header = None if metadata is None else {METADATA_KEY: canonical_json(dict(metadata))}
        with _described_errors(self._paths.blobs):
            write_tensor_file(draft, box.pop(), header)
            with ThreadPoolExecutor(1) as pool:  # the processor hashes while the disk writes
                sha256 = pool.submit(_sha256_of, draft)
                flush_file(draft)
                return BlobRef(sha256.result(), draft.stat().st_size)

    def _move_into_place(self, drafts: Iterable[Path], refs: Sequence[BlobRef]) -> None:
        for draft, ref in zip(drafts, refs, strict=True):
            path = self.path(ref.sha256)
            # A sound blob is kept: others may be reading it. One that was damaged from outside
            # is replaced by the sound copy at hand.
            if not (path.is_file() and _sha256_of(path) == ref.sha256):
                path.parent.mkdir(parents=True, exist_ok=True)
                draft.replace(path)
        # Also for blobs that were there: who put them may have died before flushing the folder.
        for folder in sorted({self.path(ref.sha256).parent for ref in refs}):
            flush_folder(folder)
        if refs:
            flush_folder(self._paths.blobs)


def _wait_for_a_thread(futures: Sequence[Future[BlobRef]]) -> None:
    """Return when fewer than `_THREADS` of the futures are running; raise what has failed."""
    running = [future for future in futures if not future.done()]
    if len(running) >= _THREADS:
        wait(running, return_when=FIRST_COMPLETED)
    for future in futures:
        if future.done():
            future.result()


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    chunk = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(chunk):
            digest.update(chunk[:size])
    return digest.hexdigest()


@contextmanager
def _described_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot_write(folder, error) from error


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
