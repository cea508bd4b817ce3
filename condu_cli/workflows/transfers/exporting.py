"""Export one expert, or the base model, as a checkpoint that its own library loads.

A head beside an expert goes into a second file, by `exported_heads`.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from condu_cli._version import __version__
from condu_cli.backbone.deltas import put_weights, weights_of
from condu_cli.backbone.statements import noted_preparation
from condu_cli.backbone.weight_files import ADAPTER_HEAD, head_file, is_checkpoint
from condu_cli.backbone.weights.adapters import refuse_folder, write_adapter
from condu_cli.backbone.weights.checkpoints import refuse_target, write_checkpoint
from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.codecs.operations import decode_into
from condu_cli.errors import DataError, UsageError
from condu_cli.registry.files.new_folders import refuse_inside_registry
from condu_cli.workflows.answering.panel import expert_image_size
from condu_cli.workflows.opening.paradigms import LORA
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.expert_blobs import head_in
from condu_cli.workflows.sessions.states import corrupt_session, has_files, open_state
from condu_cli.workflows.transfers.exported_heads import HEAD, hash_of, head_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.base_identity import BaseIdentity
    from condu_cli.registry.manifest import Session, TaskEntry
    from condu_cli.workflows.opening.workspace import Workspace

FORMAT, FORMAT_WITH_HEAD = 1, 2
"""Versions that know no heads refuse the second one, and would import an expert without it."""
EXPERT, BASE = "expert", "base"
IMAGE_SIZES = range(16, 4097)
"""Plausible sizes in pixels; a note with any other is wrong or malicious."""


@dataclass(frozen=True)
class ExportNote:
    """The metadata of an exported file: enough to import it again, and no paths.

    `base` names the base model without the path of its weights; `image_size` in pixels is what the
    expert was trained at; `preparation` is the record of one, None in files from before it was
    noted. A base model has no task, session, classes or templates. `head` is the
    sha256 of the file of the expert's head, None for an expert without one.
    """

    kind: str
    base: str
    architecture: str
    activation: str
    base_weights_sha256: str
    image_size: int
    preparation: Mapping[str, Any] | None = None
    task: str | None = None
    session: str | None = None
    classes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    condu: str = __version__
    format: int = FORMAT
    head: str | None = None

    def to_record(self) -> dict[str, Any]:
        """Return the note as written; that of a file without a head lacks the key."""
        record = asdict(self)
        if self.head is None:
            del record["head"]
        return record


@dataclass(frozen=True)
class ExportSummary:
    """What `export` reports; `load` is a line of code that loads the file.

    `head_path` is the second file, of `head_bytes` bytes, with the expert's head; None without one.
    """

    path: str
    bytes: int
    kind: str
    task: str | None
    session: str | None
    base: str
    architecture: str
    load: str
    head_path: str | None = None
    head_bytes: int = 0


def export_expert(
    workspace: Workspace, session: Session, task: str, path: Path, *, overwrite: bool = False
) -> ExportSummary:
    """Write the weights that `predict` uses for a task in a session, and the head beside them.

    Raises:
        NotFoundError: the session has no such task, or was collected.
        UsageError: a file exists, or has an invalid name.
        IntegrityError: the session is corrupt.

    """
    entry = session.entry(task)
    refuse_target(path, overwrite=overwrite, with_head=entry.expert.head is not None)
    refuse_inside_registry(path)
    workspace.registry.require_live(session)
    head = _head(workspace, entry)
    note = expert_note(workspace, session, entry, head)
    expert = _expert(workspace, session, entry)
    write_checkpoint(expert, path, note.to_record(), head=head, overwrite=overwrite)
    summary = _summary(note, path, path.stat().st_size, expert.how_to_load(str(path)))
    return summary if head is None else _with_head(summary, head_file(path), head)


def export_adapter(
    workspace: Workspace, session: Session, task: str, folder: Path, *, overwrite: bool = False
) -> ExportSummary:
    """Write the LoRA factors of a task's expert as PEFT's two files, and the head beside them.

    Raises:
        NotFoundError: the session has no such task, or was collected.
        UsageError: the registry's experts are not LoRA, or the folder cannot be used.
        IntegrityError: the session is corrupt.

    """
    entry = session.entry(task)
    config = workspace.registry.config
    if config.method != LORA:
        raise UsageError(
            f"the experts of this registry are fully fine-tuned ({config.method}), but PEFT's "
            "files hold LoRA factors",
            reason="experts-not-lora",
            method=config.method,
        )
    refuse_folder(folder, overwrite=overwrite)
    refuse_inside_registry(folder)
    workspace.registry.require_live(session)
    head = _head(workspace, entry)
    note = expert_note(workspace, session, entry, head)
    expert = _expert(workspace, session, entry)
    write_adapter(expert, folder, note.to_record(), head=head, overwrite=overwrite)
    summary = _summary(
        note,
        folder,
        sum(path.stat().st_size for path in folder.iterdir() if path.name != ADAPTER_HEAD),
        f"peft.PeftModel.from_pretrained(model, {json.dumps(str(folder), ensure_ascii=False)})",
    )
    return summary if head is None else _with_head(summary, folder / ADAPTER_HEAD, head)


def export_base(workspace: Workspace, path: Path, *, overwrite: bool = False) -> ExportSummary:
    """Write the base model.

    Raises:
        UsageError: the file exists, or has an invalid name.
        BaseModelError: the base model cannot be loaded.

    """
    refuse_target(path, overwrite=overwrite)
    refuse_inside_registry(path)
    base = workspace.base
    size = workspace.registry.config.base.image_size
    note = ExportNote(kind=BASE, image_size=size, **_identity(workspace))
    write_checkpoint(base, path, note.to_record(), overwrite=overwrite)
    return _summary(note, path, path.stat().st_size, base.how_to_load(str(path)))


def expert_note(
    workspace: Workspace, session: Session, entry: TaskEntry, head: bytes | None
) -> ExportNote:
    """Return the metadata for an expert's exported file; `head` is the content of the other."""
    return ExportNote(
        kind=EXPERT,
        task=entry.name,
        session=session.id,
        classes=entry.expert.classes,
        folders=tuple(entry.expert.training.get("folders") or ()),
        templates=entry.expert.templates,
        image_size=expert_image_size(entry),
        format=FORMAT if head is None else FORMAT_WITH_HEAD,
        head=None if head is None else hash_of(head),
        **_identity(workspace),
    )


def read_note(path: Path, metadata: Mapping[str, Any]) -> ExportNote | None:
    """Validate a file's metadata; return None if condu did not write it.

    Raises:
        UsageError: the file does not hold a single model.
        DataError: it was written by a newer condu, or altered.

    """
    if not metadata:
        return None
    written = metadata.get("format")
    if isinstance(written, int) and written > FORMAT_WITH_HEAD:
        raise DataError(
            f"{path}: was exported by a newer condu", reason="needs-newer-condu", path=path
        )
    if metadata.get("kind") == HEAD:
        raise UsageError(
            f"{path}: holds the head of an expert, not its weights",
            reason="not-weights-but-head",
            path=path,
        )
    if metadata.get("kind") not in (EXPERT, BASE):
        raise UsageError(
            f"{path}: holds a {metadata.get('kind')}, not a single model",
            reason="not-a-model",
            path=path,
        )
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in metadata.items()
        if name in ExportNote.__dataclass_fields__
    }
    try:
        note = ExportNote(**fields)
    except TypeError as exc:
        raise _altered(path) from exc
    try:
        noted_preparation(metadata)
    except ValueError as exc:
        raise _altered(path) from exc
    if not _is_sound(note):
        raise _altered(path)
    return note


def portable_base_id(base: BaseIdentity) -> str:
    """Return the base model's name without the path of its weights."""
    return base.architecture if is_checkpoint(base.pretrained) else base.id


def _identity(workspace: Workspace) -> dict[str, Any]:
    base = workspace.registry.config.base
    return {
        "base": portable_base_id(base),
        "architecture": base.architecture,
        "activation": base.activation,
        "base_weights_sha256": base.weights_sha256,
        "preparation": workspace.base.preprocessing.preparation.to_record(),
    }


def _expert(workspace: Workspace, session: Session, entry: TaskEntry) -> DualEncoder:
    """Decouple the expert that `predict` uses; an older session may be stored as a patch."""
    registry = workspace.registry
    codec = codec_for(registry.config, session)
    if has_files(registry, session):
        return workspace.expert(session, entry)
    state = open_state(registry, session)
    expert = workspace.base.expert_copy()
    weights = weights_of(expert)
    part = state.parts[session.entries.index(entry)]
    try:
        decode_into(codec, state.shared, weights_of(workspace.base), [part], [weights])
    except InvalidStateError as exc:
        raise corrupt_session(session, exc) from exc
    put_weights(expert, weights)
    return expert


def _head(workspace: Workspace, entry: TaskEntry) -> bytes | None:
    """Return the file of a task's head; an older session keeps it even if stored as a patch."""
    if entry.expert.head is None:
        return None
    blob = workspace.registry.blobs.open(entry.expert.head)
    blob.verify()
    return head_bytes(head_in(entry, blob), entry.expert.classes)


def _with_head(summary: ExportSummary, path: Path, head: bytes) -> ExportSummary:
    return replace(summary, head_path=str(path), head_bytes=len(head))


def _summary(note: ExportNote, path: Path, size: int, load: str) -> ExportSummary:
    return ExportSummary(
        path=str(path),
        bytes=size,
        kind=note.kind,
        task=note.task,
        session=note.session,
        base=note.base,
        architecture=note.architecture,
        load=load,
    )


def _is_sound(note: ExportNote) -> bool:
    texts = (note.base, note.architecture, note.activation, note.base_weights_sha256)
    lists = (note.classes, note.folders, note.templates)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(note.image_size, int)
        and note.image_size in IMAGE_SIZES
        and all(isinstance(values, tuple) for values in lists)
        and all(isinstance(v, str) and v.strip() for values in lists for v in values)
        and len(set(note.classes)) == len(note.classes)
        and len(note.folders) in (0, len(note.classes))
        and (note.head is None or _names_head(note))
    )


def _names_head(note: ExportNote) -> bool:
    """Whether a note that names a head is one of an expert and its classes."""
    is_hash = isinstance(note.head, str) and re.fullmatch("[0-9a-f]{64}", note.head)
    return bool(is_hash) and note.kind == EXPERT and bool(note.classes)


def _altered(path: Path) -> DataError:
    return DataError(
        f"{path}: condu's metadata in this file was altered",
        reason="exported-note-damaged",
        path=path,
    )
