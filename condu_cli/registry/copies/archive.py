"""A whole registry as one file, without anything that is specific to this machine.

The same registry gives the same bytes (with the same version of SQLite), so two archives can be
compared by their hashes.
"""

import ntpath
import os
import posixpath
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from condu_cli._version import __version__
from condu_cli.base_identity import parts_of
from condu_cli.disk import flush_file, flush_folder, require_parent_folder
from condu_cli.errors import DataError, IntegrityError, UsageError
from condu_cli.registry.copies.archive_database import write_clean_database
from condu_cli.registry.copies.archive_format import (
    ARCHIVE_FORMAT,
    DATABASE,
    MANIFEST,
    ArchiveError,
    ArchiveSummary,
    blob_name,
    ending,
    header,
    padding,
)
from condu_cli.registry.copies.archive_values import check_values
from condu_cli.registry.copies.snapshot import (
    CHUNK,
    DraftPaths,
    VanishedError,
    consistently,
    copy_database,
    described_writing,
    verified_chunks,
)
from condu_cli.registry.database.engine import described_errors
from condu_cli.registry.database.migration import SCHEMA_REVISION
from condu_cli.registry.files.new_folders import built_beside, refuse_inside_registry
from condu_cli.registry.manifest import RegistryConfig, canonical_json
from condu_cli.registry.reachability import History
from condu_cli.registry.repository import Registry


def write_archive(registry: Registry, path: Path, *, overwrite: bool) -> ArchiveSummary:
    """Write the registry to one file, even while other processes write to the registry."""
    path = Path(os.path.abspath(path))
    _refuse_place(path, overwrite=overwrite)
    existing = os.path.lexists(path)
    unchanged = "the existing file was not changed" if existing else "nothing was exported"
    with (
        described_writing(f"write the archive {path}", unchanged),
        built_beside(path) as folder,
    ):
        draft = folder / "archive"
        history, config = consistently(
            registry, "export", lambda: _write_state(registry, folder, draft)
        )
        flush_file(draft)
        size = draft.stat().st_size
        _refuse_place(path, overwrite=overwrite)  # again: writing took a while
        draft.replace(path)
        flush_folder(path.parent)
    return summarise(path, size, history, config, _warnings(history))


def summarise(
    path: Path, size: int, history: History, config: RegistryConfig, warnings: tuple[str, ...] = ()
) -> ArchiveSummary:
    """Return the summary of a registry's archive."""
    head = None if history.head is None else history.session(history.head)
    return ArchiveSummary(
        path=path,
        size=size,
        head=history.head,
        sessions=len(history.sessions),
        tasks=() if head is None else tuple(entry.name for entry in head.entries),
        blobs=len(history.needed_blobs()),
        base_id=config.base.id,
        weights_sha256=config.base.weights_sha256,
        warnings=warnings,
    )


def manifest_of(history: History, config: RegistryConfig) -> dict[str, Any]:
    """Return an archive's manifest; every value can be checked against the other members."""
    return {
        "format": ARCHIVE_FORMAT,
        "condu": __version__,
        "schema": SCHEMA_REVISION,
        "fingerprint": config.fingerprint(),
        "base": {"name": config.base.id, "weights_sha256": config.base.weights_sha256},
        "head": history.head,
        "blobs": len(history.needed_blobs()),
    }


def without_folders(config: RegistryConfig) -> RegistryConfig:
    """Reduce the path of a base model's weights to its file name."""
    base = config.base
    architecture, colon, weights = parts_of(base.id)
    return replace(
        config,
        base=replace(
            base,
            id=architecture + colon + _file_name(weights),
            pretrained=_file_name(base.pretrained),
        ),
    )


def _file_name(text: str) -> str:
    return ntpath.basename(text)  # splits at slashes and backslashes


def _write_state(registry: Registry, folder: Path, archive: Path) -> tuple[History, RegistryConfig]:
    """Write one state; raise VanishedError if the registry moves on in the meantime."""
    raw, clean = folder / "copy.sqlite", folder / "clean.sqlite"
    for file in (raw, clean):
        file.unlink(missing_ok=True)
    copy = copy_database(registry.paths, DraftPaths(folder, raw))
    history = copy.history()
    config = without_folders(copy.config)
    try:
        check_values(config, copy.created_at, copy.operations(), history)
    except ArchiveError as error:
        raise DataError(
            f"an archive of this registry could not be imported: {error}",
            reason="not-exportable",
        ) from error
    with described_errors(clean):
        write_clean_database(raw, clean, config)
    manifest = canonical_json(manifest_of(history, config)) + "\n"
    with archive.open("wb") as out:
        _add(out, MANIFEST, len(manifest), [memoryview(manifest.encode())])
        _add(out, DATABASE, clean.stat().st_size, _pieces(clean))
        for sha256 in sorted(history.needed_blobs()):
            blob = registry.blobs.path(sha256)
            try:
                size = blob.lstat().st_size
            except FileNotFoundError as error:
                raise VanishedError(str(blob)) from error
            _add(out, blob_name(sha256), size, verified_chunks(blob, sha256))
        out.write(ending(out.tell()))
    return history, config


def _add(
    file: IO[bytes], name: str, size: int, chunks: Iterator[memoryview] | list[memoryview]
) -> None:
    file.write(header(name, size))
    written = sum(file.write(chunk) for chunk in chunks)
    if written != size:
        raise IntegrityError(f"{name} changed while it was read", reason="blob-changed", blob=name)
    file.write(padding(size))


def _pieces(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield memoryview(piece)


def _refuse_place(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, but an archive is a file", reason="output-is-folder", path=path
        )
    refuse_inside_registry(path)
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path} already exists", reason="output-exists", path=path)
    require_parent_folder(path)


def _warnings(history: History) -> tuple[str, ...]:
    """Name the tasks whose records hold local paths; they are part of the session's id."""
    tasks = {
        entry.name
        for session in history.sessions
        for entry in session.entries
        if _names_a_place(dict(entry.expert.training))
    }
    tasks |= {session.task for session in history.sessions if _names_a_place(dict(session.note))}
    if not tasks:
        return ()
    return (
        "the records of these tasks contain the path of a folder on this machine and cannot "
        f"be changed: {', '.join(sorted(tasks))}",
    )


def _names_a_place(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_names_a_place(item) for item in value.values())
    if isinstance(value, list):
        return any(_names_a_place(item) for item in value)
    if not isinstance(value, str):
        return False
    return posixpath.isabs(value) or ntpath.isabs(value) or value.startswith("~/")
