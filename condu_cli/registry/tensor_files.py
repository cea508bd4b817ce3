"""Safetensors files: tensors written as they lie in memory, read as views on the mapped file.

A file is the header's length in eight bytes, a JSON header that gives each tensor's dtype, shape
and place, then the tensors' bytes. safetensors writes and checks it; only the views are ours,
since its own reader copies each tensor.
"""

import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

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


class TensorFileError(ValueError):
    """A file, or a tensor in it, that is not what the format promises."""


class TensorFile:
    """A sound safetensors file, mapped read-only while this object or an array from it lives."""

    def __init__(self, path: Path) -> None:
        """Check and map the file; raise OSError or TensorFileError if that is not possible."""
        self.names, self.metadata = _check(path)
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._data_start = _LENGTH_BYTES + int.from_bytes(self._bytes[:_LENGTH_BYTES], "little")
            self._header = json.loads(self._bytes[_LENGTH_BYTES : self._data_start])
        except ValueError as error:  # cut since the check
            raise TensorFileError(str(error)) from error

    def view(self, name: str) -> np.ndarray:
        """Return a tensor that shares the file's pages; nothing is read before it is used."""
        entry = self._header[name]
        begin, end = entry["data_offsets"]
        dtype = _dtype(name, entry["dtype"])
        try:
            flat = np.frombuffer(
                self._bytes, dtype, (end - begin) // dtype.itemsize, self._data_start + begin
            )
            return flat.reshape(entry["shape"])
        except ValueError as error:  # cut between the check and the mapping
            raise TensorFileError(str(error)) from error


def write_tensor_file(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None
) -> None:
    """Write a new file, not flushed yet; whatever fails is an OSError."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # safetensors leaves mode 0600 whatever the umask; a file of our own shows the wanted mode.
    # It must be gone before: a rename onto a file makes some file systems flush there and then.
    with path.open("xb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
    path.unlink()
    try:
        save_file({name: _plain(tensor) for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)


def _plain(tensor: np.ndarray) -> np.ndarray:
    """Return `tensor` in C order and native bytes: safetensors writes memory as it lies."""
    return np.asarray(tensor, dtype=tensor.dtype.newbyteorder("="), order="C")


def _check(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the tensors' names and the metadata of a file whose header fits its bytes."""
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="numpy")
    except SafetensorError as error:
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
