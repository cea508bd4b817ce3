"""Safetensors files: tensors written as they are in memory, and read as views of the mapped file.

The format: the header's length in eight bytes, a JSON header with each tensor's dtype, shape and
offsets, then the tensors' bytes. The library writes and checks files; only the views are ours,
because its own reader copies each tensor.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from condu_cli.registry.blobs.mapping import map_file

_LENGTH_BYTES = 8
_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "C64": "<c8",
}


_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


class TensorFileError(ValueError):
    """A file, or a tensor in it, violates the safetensors format."""


class TensorFile:
    """A valid safetensors file, mapped read-only while this object or an array from it lives."""

    def __init__(self, path: Path) -> None:
        """Check and map the file; raise OSError or TensorFileError on failure."""
        self.names, self.metadata = _check(path)
        try:
            self._bytes = map_file(path)
            self._data_start = _LENGTH_BYTES + int.from_bytes(self._bytes[:_LENGTH_BYTES], "little")
            self._header = json.loads(bytes(self._bytes[_LENGTH_BYTES : self._data_start]))
        except ValueError as error:  # truncated since the check
            raise TensorFileError(str(error)) from error

    def view(self, name: str) -> np.ndarray:
        """Return a tensor as a view of the file's pages, which are read lazily."""
        entry = self._header[name]
        begin, end = entry["data_offsets"]
        dtype = _dtype(name, entry["dtype"])
        try:
            flat = np.frombuffer(
                self._bytes, dtype, (end - begin) // dtype.itemsize, self._data_start + begin
            )
            return flat.reshape(entry["shape"])
        except ValueError as error:  # truncated between the check and the mapping
            raise TensorFileError(str(error)) from error

    @property
    def header(self) -> bytes:
        """All bytes before the tensors; header and tensors together rebuild the file."""
        return bytes(self._bytes[: self._data_start])

    @property
    def mapped(self) -> memoryview:
        """The whole mapped file."""
        return self._bytes


def file_pieces(header: bytes, tensors: Mapping[str, np.ndarray]) -> list[memoryview]:
    """Return, in pieces, the bytes of the file with this header and these tensors.

    Another version of safetensors may write another header for the same tensors, and a blob's
    name is the hash of both. Raises TensorFileError if header and tensors do not match.
    """
    entries = _entries(header)
    if entries.keys() != tensors.keys():
        raise TensorFileError("the header lists other tensors")
    pieces, end = [memoryview(header)], 0
    for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
        plain = _plain(tensors[name])
        begin, stop = entries[name]["data_offsets"]
        if begin != end or stop - begin != plain.nbytes:
            raise TensorFileError(f"the header does not match tensor {name!r}")
        pieces.append(plain.reshape(-1).view(np.uint8).data)
        end = stop
    return pieces


def _entries(header: bytes) -> dict[str, Any]:
    try:
        entries: dict[str, Any] = json.loads(header[_LENGTH_BYTES:])
        entries.pop("__metadata__", None)
        for entry in entries.values():
            begin, end = entry["data_offsets"]
            if not (type(begin) is type(end) is int and 0 <= begin <= end):
                raise ValueError("a tensor has no valid offsets")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TensorFileError(f"the header cannot be read: {error}") from error
    return entries


def write_tensor_file(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None
) -> None:
    """Write a new file without flushing it; raise OSError on any failure."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # safetensors writes to a temporary name of its own choice, and leaves that file behind if it
    # is killed. In a folder with the draft's name, its owner can be told.
    folder = path.with_suffix(".writing")
    folder.mkdir()
    try:
        inside = folder / path.name
        # safetensors sets mode 0600 whatever the umask; a file of ours shows the mode to set. It
        # must be gone before: renaming onto a file makes some file systems flush at once.
        with inside.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
        inside.unlink()
        save_file({name: _plain(tensor) for name, tensor in tensors.items()}, inside, metadata)
        inside.chmod(mode)
        inside.replace(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _plain(tensor: np.ndarray) -> np.ndarray:
    """Return `tensor` in C order and native byte order: safetensors writes raw memory."""
    return np.asarray(tensor, dtype=tensor.dtype.newbyteorder("="), order="C")


def _check(path: Path) -> tuple[list[str], dict[str, str]]:
    """Check that a file's header fits its bytes; return the tensors' names and the metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="numpy")
    except FileNotFoundError:  # safetensors raises it for any file that it cannot open
        with path.open("rb"):
            raise
    except SafetensorError as error:
        if code := _SYSTEM_ERROR.search(str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        raise TensorFileError(str(error)) from error
    return list(file.keys()), dict(file.metadata() or {})


def _dtype(name: str, code: str) -> np.dtype[Any]:
    if code == "BF16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    if code not in _DTYPES:
        raise TensorFileError(f"tensor {name!r} has the unknown dtype {code}")
    return np.dtype(_DTYPES[code])
