"""The head of an exported expert: a second file beside its weights, which name it by its hash.

No other library knows the head, so the checkpoint or adapter holds nothing of it but that hash.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from condu_cli.backbone.weight_files import METADATA_KEY, head_file
from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.stored_heads import check_head
from condu_cli.data.class_names import name_unknown, places_among, unknown_among
from condu_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from condu_cli.core.arrays.layout import Float32
    from condu_cli.workflows.transfers.exporting import ExportNote

HEAD = "head"
"""The kind of such a file in its metadata."""


def head_bytes(head: Mapping[str, Float32], classes: Sequence[str]) -> bytes:
    """Return the file of a head: `weights` (C, P) and `bias` (C,), for the C classes in order.

    The same head and classes give the same bytes.
    """
    note = {"format": 1, "kind": HEAD, "classes": list(classes)}
    text = json.dumps(note, sort_keys=True, separators=(",", ":"))
    tensors = {name: np.ascontiguousarray(values) for name, values in head.items()}
    content: bytes = save(tensors, {METADATA_KEY: text})
    return content


def hash_of(content: bytes) -> str:
    """Return the name by which an expert's note knows its head."""
    return hashlib.sha256(content).hexdigest()


def noted_head(
    weights: Path, note: ExportNote | None, wanted: tuple[Sequence[str], Sequence[str]]
) -> dict[str, Float32] | None:
    """Read the head that an expert was exported with, None if its note names none.

    Its rows are in the order of the `wanted` classes, (class names, folders). They are matched by
    name, or else all by folder, so that a file of class names may rename them.

    Raises:
        DataError: the file is missing, is not the one that was exported, or holds no such head.
        UsageError: the wanted classes are not those that the head was learned for.

    """
    if note is None or note.head is None:
        return None
    head = _read(weights, note.head, len(note.classes))
    noted = (note.classes, note.folders or note.classes)
    return _in_order_of(head, noted, wanted, weights)


def warnings_of_head(weights: Path, head: Mapping[str, Float32] | None) -> tuple[str, ...]:
    """Warn of a head's file that is there without being named by the weights."""
    file = head_file(weights)
    if head is not None or not file.exists():
        return ()
    return (f"{file} is not used: {weights} does not say that it was exported with a head",)


def check_width(head: Mapping[str, Float32], width: int, weights: Path) -> None:
    """Refuse a head that does not fit the base model's pooled features, (B, `width`).

    Raises:
        DataError: it is of another width.

    """
    if head["weights"].shape[1] != width:
        file = head_file(weights)
        raise DataError(
            f"{file}: is for features of {head['weights'].shape[1]} numbers, but the base model's "
            f"have {width}",
            reason="exported-head-damaged",
            path=file,
        )


def _read(weights: Path, sha256: str, classes: int) -> dict[str, Float32]:
    file = head_file(weights)
    try:
        content = file.read_bytes()
    except FileNotFoundError as exc:
        raise DataError(
            f"{file}: no such file, but {weights} was exported with that head",
            reason="exported-head-missing",
            path=file,
            weights=weights,
        ) from exc
    except OSError as exc:
        raise DataError(
            f"{file}: cannot be read ({exc.strerror})", reason="exported-head-unreadable", path=file
        ) from exc
    if hash_of(content) != sha256:
        raise DataError(
            f"{file}: is not the head that {weights} was exported with, or is corrupt",
            reason="exported-head-differs",
            path=file,
            weights=weights,
        )
    try:
        return check_head(load(content), classes)
    except (SafetensorError, InvalidStateError, KeyError, TypeError) as exc:
        raise DataError(
            f"{file}: holds no head of {classes} classes ({exc})",
            reason="exported-head-damaged",
            path=file,
        ) from exc


def _in_order_of(
    head: Mapping[str, Float32],
    noted: tuple[Sequence[str], Sequence[str]],
    wanted: tuple[Sequence[str], Sequence[str]],
    weights: Path,
) -> dict[str, Float32]:
    rows = places_among(noted, wanted)
    if rows is None or len(rows) != len(noted[0]):
        there, named = noted[0], wanted[0]
        strange = unknown_among(there, named)
        which = f"not {name_unknown(strange)}" if strange else f"not only {len(named)} of them"
        raise UsageError(
            f"{weights}: its head answers among its own {len(there)} classes, {which}",
            reason="exported-head-of-other-classes",
            path=weights,
            classes=there,
        )
    return {name: values[rows] for name, values in head.items()}
