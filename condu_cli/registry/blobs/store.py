"""Immutable tensors in files named by their sha256, written atomically.

A blob is a safetensors file at `blobs/ab/abcd…`. Nothing is ever unpickled or overwritten with
other content; equal content has equal bytes and is therefore stored once.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condu_cli.disk import flush_file, flush_folder
from condu_cli.errors import ConduError, IntegrityError, exhausted
from condu_cli.registry.blobs.tensor_files import (
    TensorFile,
    TensorFileError,
    file_pieces,
    write_tensor_file,
)
from condu_cli.registry.files.drafts import draft_name
from condu_cli.registry.files.listing import files_below
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.manifest import canonical_json
from condu_cli.registry.names import is_sha256, validate_sha256

METADATA_KEY = "condu"
_CHUNK = 1 << 20
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class BlobRef:
    """The name and the size in bytes of a blob on disk."""

    sha256: str
    size: int


class BlobReader(Mapping[str, np.ndarray]):
    """The tensors of one blob: read-only views on the mapped file, which may outlive the reader."""

    def __init__(self, path: Path, sha256: str) -> None:
        self._sha256 = sha256
        _refuse_link(sha256, path)
        try:
            self._file = TensorFile(path)
        except OSError as error:
            raise _unreadable(sha256, error) from error
        except TensorFileError as error:
            raise _corrupt(sha256, str(error)) from error
        self._names = dict.fromkeys(self._file.names)
        self._views: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._views:
            try:
                self._views[name] = self._file.view(name)
            except TensorFileError as error:
                raise _corrupt(self._sha256, str(error)) from error
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def sha256(self) -> str:
        """The blob's name."""
        return self._sha256

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return len(self._file.mapped)

    @property
    def header(self) -> bytes:
        """The file's bytes before the tensors."""
        return self._file.header

    def verify(self) -> None:
        """Hash the mapped bytes; raise IntegrityError if they are not what was written.

        They stay readable even if the file is removed.
        """
        if hashlib.sha256(self._file.mapped).hexdigest() != self._sha256:
            raise _corrupt(self._sha256, "its sha256 does not match")

    @property
    def metadata(self) -> dict[str, Any]:
        """The JSON record stored with the tensors; empty if there was none."""
        text = self._file.metadata.get(METADATA_KEY)
        if text is None:
            return {}
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _corrupt(self._sha256, f"its metadata is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise _corrupt(self._sha256, "its metadata is not a JSON object")
        return record


class BlobStore:
    """The blobs of one registry."""

    def __init__(self, paths: RegistryPaths) -> None:
        self._paths = paths
        self._noting: list[set[str]] = []

    @contextmanager
    def noting_new(self) -> Iterator[set[str]]:
        """Yield a set that collects the names of blobs whose files are created in the block."""
        new: set[str] = set()
        self._noting.append(new)
        try:
            yield new
        finally:
            self._noting.remove(new)

    def put(
        self, tensors: Mapping[str, np.ndarray], *, metadata: Mapping[str, Any] | None = None
    ) -> BlobRef:
        """Store `tensors` durably and return the blob's name; equal content is stored once."""
        return self._put_each([tensors], metadata)[0]

    def put_all(self, mappings: Iterable[Mapping[str, np.ndarray]]) -> list[BlobRef]:
        """Store each of `mappings` as `put` does, several at a time, and return their names.

        Iterators are advanced in the calling thread, at most one mapping ahead of the blobs being
        written. If one fails, its error is raised and the drafts are removed; blobs already in
        place stay, unreferenced.
        """
        return self._put_each(mappings, None)

    def put_again(self, sha256: str, header: bytes, tensors: Mapping[str, np.ndarray]) -> None:
        """Write the file of a blob restored from a patch, bit for bit as it was.

        Raises IntegrityError, and leaves nothing, if it has another hash.
        """
        draft = self._new_draft()
        try:
            with _described_errors(self._paths.blobs):
                with draft.open("xb") as file:
                    for piece in _pieces(sha256, header, tensors):
                        file.write(piece)
                flush_file(draft)
                if file_sha256(draft) != sha256:
                    raise _not_restored(sha256)
                self._move_into_place([draft], [BlobRef(sha256, draft.stat().st_size)])
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def remove(self, sha256: str) -> int:
        """Remove the blob's file and return the bytes that this frees; 0 if there was none.

        The caller holds the lock and knows that the blob is not needed.
        """
        path = self.path(sha256)
        _require_folder(path.parent)
        try:
            size = path.lstat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise ConduError(
                f"cannot remove blob {sha256}: {error.strerror or error}",
                reason="cannot-remove",
                blob=sha256,
            ) from error
        with suppress(OSError):  # not empty, or already gone
            path.parent.rmdir()
        return size

    def open(self, sha256: str) -> BlobReader:
        """Return the blob's tensors, read lazily; IntegrityError if missing or incomplete."""
        return BlobReader(self.path(sha256), sha256)

    def size(self, sha256: str) -> int:
        """Return the blob's size on disk in bytes."""
        try:
            return self.path(sha256).stat().st_size
        except OSError as error:
            raise _unreadable(sha256, error) from error

    def path(self, sha256: str) -> Path:
        """Return the path of the blob, whether it exists or not."""
        return self._paths.blobs / validate_sha256(sha256)[:2] / sha256

    def exists(self, sha256: str) -> bool:
        """Whether the blob has a file; `verify` checks that it is intact."""
        path = self.path(sha256)
        return path.is_file() and not _is_linked(path)

    def verify(self, sha256: str) -> None:
        """Hash the blob's bytes; raise IntegrityError if they are not what was written."""
        path = self.path(sha256)
        _refuse_link(sha256, path)
        try:
            actual = file_sha256(path)
        except OSError as error:
            raise _unreadable(sha256, error) from error
        if actual != sha256:
            raise _corrupt(sha256, "its sha256 does not match")

    def all(self) -> Iterator[BlobRef]:
        """Yield every blob on disk, referenced or not, ordered by name."""
        for path, size in sorted(files_below(self._paths.blobs)):
            if self._is_blob(path):
                yield BlobRef(path.name, size)

    def unknown(self) -> Iterator[Path]:
        """Yield the other files in the folder of blobs."""
        for path, _ in sorted(files_below(self._paths.blobs)):
            if not self._is_blob(path):
                yield path

    def _is_blob(self, path: Path) -> bool:
        named = is_sha256(path.name) and path.parent.name == path.name[:2]
        return named and path.parent.parent == self._paths.blobs and not path.is_symlink()

    def _put_each(
        self, mappings: Iterable[Mapping[str, np.ndarray]], metadata: Mapping[str, Any] | None
    ) -> list[BlobRef]:
        drafts: list[Path] = []
        written: list[Future[BlobRef]] = []
        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                for tensors in mappings:
                    _wait_for_a_thread(written)
                    draft = self._new_draft()
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

    def _new_draft(self) -> Path:
        with _described_errors(self._paths.blobs):
            return _new_draft(self._paths.tmp)

    def _write_draft(
        self, draft: Path, box: list[Mapping[str, np.ndarray]], metadata: Mapping[str, Any] | None
    ) -> BlobRef:
        """Write and flush the mapping in `box`, emptying it so that the mapping is freed."""
        # safetensors orders several metadata keys at random; one key keeps the bytes the same.
        header = None if metadata is None else {METADATA_KEY: canonical_json(dict(metadata))}
        with _described_errors(self._paths.blobs):
            write_tensor_file(draft, box.pop(), header)
            return _flushed(draft)

    def _move_into_place(self, drafts: Iterable[Path], refs: Sequence[BlobRef]) -> None:
        for draft, ref in zip(drafts, refs, strict=True):
            path = self.path(ref.sha256)
            # An intact blob is kept: others may be reading it. One that became corrupt
            # is replaced by the intact copy.
            if not (self.exists(ref.sha256) and file_sha256(path) == ref.sha256):
                _require_folder(path.parent)
                path.parent.mkdir(parents=True, exist_ok=True)
                for new in self._noting:
                    new.add(ref.sha256)
                draft.replace(path)
        # Also for existing blobs: their writer may have died before flushing the folder.
        for folder in sorted({self.path(ref.sha256).parent for ref in refs}):
            flush_folder(folder)
        if refs:
            flush_folder(self._paths.blobs)


def write_durably(
    tmp: Path,
    tensors: Mapping[str, np.ndarray],
    metadata: dict[str, str],
    place: Callable[[str], Path],
) -> Path:
    """Write a draft in `tmp`, then move it to the place given by its sha256; OSError on failure."""
    draft = _new_draft(tmp)
    try:
        write_tensor_file(draft, tensors, metadata)
        path = place(_flushed(draft).sha256)
        draft.replace(path)
        flush_folder(path.parent)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return path


def _new_draft(tmp: Path) -> Path:
    """Return the path of a new file in `tmp`, creating the folder, which git drops when empty."""
    _require_folder(tmp)
    tmp.mkdir(exist_ok=True)
    return tmp / f"{draft_name()}.safetensors"


def _flushed(draft: Path) -> BlobRef:
    with ThreadPoolExecutor(1) as pool:  # the processor hashes while the disk writes
        sha256 = pool.submit(file_sha256, draft)
        flush_file(draft)
        return BlobRef(sha256.result(), draft.stat().st_size)


def check_blob(sha256: str, header: bytes, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise IntegrityError unless header and tensors are exactly the blob's, bit for bit."""
    digest = hashlib.sha256()
    for piece in _pieces(sha256, header, tensors):
        digest.update(piece)
    if digest.hexdigest() != sha256:
        raise _not_restored(sha256)


def _pieces(sha256: str, header: bytes, tensors: Mapping[str, np.ndarray]) -> list[memoryview]:
    try:
        return file_pieces(header, tensors)
    except TensorFileError as error:
        raise _not_restored(sha256, f": {error}") from error


def _wait_for_a_thread(futures: Sequence[Future[BlobRef]]) -> None:
    """Wait until fewer than `_THREADS` of the futures are running; raise any error."""
    running = [future for future in futures if not future.done()]
    if len(running) >= _THREADS:
        wait(running, return_when=FIRST_COMPLETED)
    for future in futures:
        if future.done():
            future.result()


def file_sha256(path: Path) -> str:
    """Hash a file's bytes, read in pieces; raise OSError if that fails."""
    digest = hashlib.sha256()
    chunk = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(chunk):
            digest.update(chunk[:size])
    return digest.hexdigest()


def _is_linked(path: Path) -> bool:
    """Whether a blob's path leads elsewhere through a link, perhaps out of the registry."""
    return path.is_symlink() or path.parent.is_symlink()


def _refuse_link(sha256: str, path: Path) -> None:
    if _is_linked(path):
        raise _corrupt(sha256, "it is a symbolic link, or is inside one")


def _require_folder(folder: Path) -> None:
    """Refuse to write or remove through a link, which may lead out of the registry."""
    if folder.is_symlink():
        raise IntegrityError(f"{folder} is a symbolic link", reason="symbolic-link", path=folder)


@contextmanager
def _described_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: OSError) -> ConduError:
    return ConduError(
        f"cannot write a blob under {folder}: {error.strerror or error}",
        reason="cannot-write",
        path=folder,
        consequence="the registry is unchanged",
    )


def _unreadable(sha256: str, error: OSError) -> ConduError:
    if stopped := exhausted(error):
        return stopped
    missing = isinstance(error, FileNotFoundError)
    what = "missing" if missing else f"unreadable: {error.strerror or error}"
    return IntegrityError(
        f"blob {sha256} is {what}",
        reason="blob-missing" if missing else "blob-unreadable",
        blob=sha256,
    )


def _corrupt(sha256: str, reason: str) -> IntegrityError:
    return IntegrityError(f"blob {sha256} is corrupt: {reason}", reason="blob-corrupt", blob=sha256)


def _not_restored(sha256: str, why: str = "") -> IntegrityError:
    """Build the error about a blob that was restored wrongly, from something corrupt."""
    return IntegrityError(
        f"blob {sha256} cannot be restored from its patch{why}",
        reason="blob-not-restored",
        blob=sha256,
    )
