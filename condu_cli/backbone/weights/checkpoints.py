"""Checkpoint files: write whole models as safetensors, and read weights from elsewhere.

Files hold the names and tensors of the model's own library, so that open_clip loads them without
condu. Reading never runs code: pickles are loaded with `weights_only`.
"""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from condu_cli.backbone.file_kinds import MISFITS, misfit_of
from condu_cli.backbone.statements import NOTHING_STATED, Statement, note_text
from condu_cli.backbone.weight_files import (
    CHECKPOINT_SUFFIXES,
    METADATA_KEY,
    SAFE_SUFFIX,
    head_file,
)
from condu_cli.disk import (
    flush_file,
    flush_folder,
    mode_of_new_file,
    named_in_utf8,
    require_parent_folder,
)
from condu_cli.errors import ConduError, DataError, UsageError, exhausted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from condu_cli.backbone.dual_encoder import DualEncoder

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training programs store a model's weights beside other records."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A file's tensors by name, on the CPU, and what it says about itself.

    `metadata` is condu's, not validated, and empty if condu did not write the file. `files` hold
    the tensors if `path` is a folder.
    """

    path: Path
    weights: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    statement: Statement = NOTHING_STATED
    files: tuple[Path, ...] = ()


def write_checkpoint(
    model: DualEncoder,
    path: Path,
    metadata: Mapping[str, Any],
    *,
    head: bytes | None = None,
    overwrite: bool = False,
) -> None:
    """Write all parameters and buffers under their names in the model's own library.

    Tensors keep their dtypes and are written in row-major order. The same weights and metadata
    give the same bytes. The file appears completely or not at all, with the mode from the umask;
    so does the second one, at `head_file`, if the content of a `head` is given: both or neither.

    Raises:
        UsageError: a file exists and `overwrite` is not set, or the name is not valid.
        ConduError: it cannot be written; nothing is left behind.

    """
    with_head = head is not None
    refuse_target(path, overwrite=overwrite, with_head=with_head)
    note = json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"), allow_nan=False)
    tensors = _row_major(model.library_model.state_dict())
    try:
        # In a temporary folder, which also removes what a failed write leaves behind.
        folder = Path(tempfile.mkdtemp(prefix=".condu-", dir=path.parent))
        try:
            draft = folder / path.name
            mode = mode_of_new_file(draft)
            save_file(tensors, draft, {METADATA_KEY: note})
            draft.chmod(mode)
            flush_file(draft)
            # Again: writing took a while.
            refuse_target(path, overwrite=overwrite, with_head=with_head)
            if head is None:
                draft.replace(path)
            else:
                with _head_in_place(head, head_file(path), folder):
                    draft.replace(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        flush_folder(path.parent)
    except (OSError, SafetensorError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ConduError(
            f"{path}: cannot be written ({reason})", reason="cannot-write-output", path=path
        ) from exc


@contextmanager
def _head_in_place(content: bytes, path: Path, work: Path) -> Iterator[None]:
    """Write a head's file, and remove it again if the block that writes the checkpoint fails."""
    before = path.read_bytes() if path.exists() else None
    _replace(path, content, work)
    try:
        yield
    except BaseException:
        if before is None:
            path.unlink()
        else:
            _replace(path, before, work)
        raise


def _replace(path: Path, content: bytes, work: Path) -> None:
    draft = work / path.name
    draft.write_bytes(content)  # with the mode from the umask
    flush_file(draft)
    draft.replace(path)


def refuse_target(path: Path, *, overwrite: bool, with_head: bool = False) -> None:
    """Check the target file of an export, or both, before anything slow happens.

    Raises:
        UsageError: wrong suffix, missing folder, existing file, or not a plain file.

    """
    if path.suffix != SAFE_SUFFIX:
        raise UsageError(
            f"{path}: the name of an exported model must end in {SAFE_SUFFIX}",
            reason="output-suffix",
            path=path,
            name=path.with_suffix(SAFE_SUFFIX).name if path.name else "",
        )
    require_parent_folder(path)
    for file in (path, head_file(path)) if with_head else (path,):
        if file.exists() and not file.is_file():
            raise UsageError(f"{file}: is not a file", reason="output-not-a-file", path=file)
        if file.exists() and not overwrite:
            raise UsageError(f"{file}: already exists", reason="output-exists", path=file)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a .safetensors file, or a .pt, .pth, .bin or .ckpt file of tensors only.

    The usual wrappers (`state_dict`, `model_state_dict`, `model`) are stripped.

    Raises:
        UsageError: the suffix is of neither format.
        DataError: the file is missing, not a checkpoint, truncated, or a pickle with code.

    """
    if path.suffix.lower() not in CHECKPOINT_SUFFIXES:
        raise UsageError(
            f"{path}: does not have the suffix of a checkpoint",
            reason="not-a-checkpoint-name",
            path=path,
            known=CHECKPOINT_SUFFIXES,
        )
    if not path.is_file():
        what = "is a folder, not a checkpoint" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}", reason="no-such-file", path=path)
    safe = path.suffix.lower() == SAFE_SUFFIX
    weights, metadata = _read_safetensors(path) if safe else (_read_pickle(path), {})
    if not weights:
        raise DataError(f"{path}: holds no tensors", reason="no-tensors", path=path)
    return Checkpoint(path, weights, metadata)


def _row_major(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return dense tensors on the CPU that do not share memory, as safetensors requires."""
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if place in seen else value
        seen.add(place)
    return plain


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with named_in_utf8(path) as there:
            note = note_text(there)
            weights: dict[str, Tensor] = load_file(there)
    except (SafetensorError, OSError) as exc:
        raise exhausted(exc) or _not_a_checkpoint(path, exc) from exc
    return weights, {} if note is None else _metadata(path, note)


def _metadata(path: Path, note: str) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        found = json.loads(note)
        if isinstance(found, dict):
            return found
    raise DataError(
        f"{path}: condu's metadata in this file is corrupt",
        reason="exported-note-damaged",
        path=path,
    )


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated formats
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        refuse_misfit(path)
        raise DataError(
            f"{path}: holds pickled code, which is never run, or is not a checkpoint",
            reason="pickled-code",
            path=path,
        ) from exc
    except Exception as exc:
        # On corrupt bytes, torch raises anything: RuntimeError, EOFError, KeyError …
        raise exhausted(exc) or _not_a_checkpoint(path, exc) from exc
    return _unwrapped(found)


def _unwrapped(found: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dict inside at most three wrappers; empty if there are none."""
    for _ in range(3):
        inner = next((found[k] for k in WRAPPERS if _is_mapping(found) and k in found), None)
        if not _is_mapping(inner):
            break
        found = inner
    if not _is_mapping(found):
        return {}
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def refuse_misfit(path: Path) -> None:
    """Raise DataError if a file is something else than a checkpoint; the message says what."""
    misfit = misfit_of(path)
    if misfit is None:
        return
    raise DataError(
        f"{path}: {MISFITS[misfit]}", reason="checkpoint-is-other-file", path=path, kind=misfit
    )


def _not_a_checkpoint(path: Path, exc: Exception) -> DataError:
    refuse_misfit(path)
    reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
    return DataError(
        f"{path}: not a checkpoint, or corrupt ({reason[:160]})",
        reason="checkpoint-damaged",
        path=path,
    )
