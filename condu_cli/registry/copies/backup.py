"""Backups: a second registry with the same content, made and updated while others write.

Every step leaves a registry that opens. A new backup is built beside its place and renamed. An
earlier backup first gets the blobs that it lacks, which nothing refers to yet; then one rename
replaces its database, and with it all of its content at once.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from condu_cli.disk import flush_file, flush_folder
from condu_cli.errors import IntegrityError, LockedError, UsageError
from condu_cli.registry.copies.snapshot import (
    DraftPaths,
    VanishedError,
    consistently,
    copy_database,
    described_writing,
    set_wal,
    verified_chunks,
)
from condu_cli.registry.creation import make_skeleton
from condu_cli.registry.database.copying import remove_database
from condu_cli.registry.database.engine import connect, described_errors
from condu_cli.registry.files.drafts import draft_name
from condu_cli.registry.files.new_folders import is_free, new_folder, refuse_inside_registry
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.names import is_sha256
from condu_cli.registry.reachability import History
from condu_cli.registry.repository import Registry

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class BackupSummary:
    """What a backup holds and what was copied; sizes in bytes.

    `blobs` counts those that its sessions need, `unneeded_*` any others in the backup; `experts`
    are trained but not committed. `copied_*` count blobs and experts.
    """

    path: Path
    created: bool
    head: str | None
    sessions: int
    blobs: int
    experts: int
    copied_files: int
    copied_bytes: int
    unneeded_blobs: int
    unneeded_bytes: int


class _File(NamedTuple):
    source: Path
    target: Path
    sha256: str
    size: int


def back_up_registry(registry: Registry, target: Path, on_progress: OnProgress) -> BackupSummary:
    """Make a backup at `target`, or update the earlier backup of this registry there.

    `on_progress` gets the bytes copied and the total. No writer waits for the backup, and it
    waits for no writer, unless they remove files faster than it copies them.
    """
    target = target.resolve()
    _refuse_nested(registry.path.resolve(), target)
    there = os.path.lexists(RegistryPaths(target).database)
    unchanged = "the earlier backup was not changed" if there else "no backup was made"
    with described_writing(f"back the registry up to {target}", unchanged):
        if is_free(target):
            refuse_inside_registry(target)
            return _new_backup(registry, target, on_progress)
        earlier = _earlier_backup(registry, target)
        with earlier.lock("backup"):
            known = frozenset(earlier.session_ids())
            return _Copying(registry, earlier.paths, on_progress, known).run(target, created=False)


def _new_backup(registry: Registry, target: Path, on_progress: OnProgress) -> BackupSummary:
    with new_folder(target) as draft:
        paths = RegistryPaths(draft)
        make_skeleton(paths)
        return _Copying(registry, paths, on_progress, frozenset()).run(target, created=True)


@dataclass
class _Copying:
    """Copies a registry into the folder at `paths`, which already has the sessions `known`."""

    registry: Registry
    paths: RegistryPaths
    on_progress: OnProgress
    known: frozenset[str]
    copied: list[int] = field(default_factory=list)

    def run(self, target: Path, *, created: bool) -> BackupSummary:
        self.paths.tmp.mkdir(exist_ok=True)
        history, experts = consistently(self.registry, "backup", self._attempt)
        needed = history.needed_blobs()
        here = Registry(self.paths)
        unneeded = [ref.size for ref in here.blobs.all() if ref.sha256 not in needed]
        return BackupSummary(
            path=target,
            created=created,
            head=history.head,
            sessions=len(history.sessions),
            blobs=len(needed),
            experts=experts,
            copied_files=len(self.copied),
            copied_bytes=sum(self.copied),
            unneeded_blobs=len(unneeded),
            unneeded_bytes=sum(unneeded),
        )

    def _attempt(self) -> tuple[History, int]:
        """Copy one state; raise VanishedError if the registry moves on in the meantime.

        The waiting experts are listed before the database is copied: one that is committed in
        between is then in the copy, or was not listed.
        """
        experts = list(_experts(self.registry.paths, self.paths))
        draft = DraftPaths(self.paths.root, self.paths.tmp / f"{draft_name()}.sqlite")
        try:
            copy = copy_database(self.registry.paths, draft)
            history = copy.history()
            _refuse_other_sessions(self.known, history, self.paths.root)
            self._copy_files([*_blobs(self.registry, copy, history), *experts])
            self._place(draft.draft)
        finally:
            remove_database(draft.draft)
        _remove_other_experts(self.paths, {expert.target for expert in experts})
        return history, len(experts)

    def _copy_files(self, files: list[_File]) -> None:
        missing = [file for file in files if not _is_there(file)]
        done, total = 0, sum(file.size for file in missing)
        self.on_progress(done, total)
        for file in missing:
            for size in self._copy(file):
                done += size
                self.on_progress(done, total)
            self.copied.append(file.size)
        # Also for existing files: the process that copied them may have died before this.
        for folder in sorted({file.target.parent for file in files}):
            flush_folder(folder)
        flush_folder(self.paths.blobs)

    def _copy(self, file: _File) -> Iterator[int]:
        """Copy one file, and yield the bytes as they are written."""
        folder = file.target.parent
        if folder.is_symlink():
            raise IntegrityError(
                f"{folder} is a symbolic link", reason="symbolic-link", path=folder
            )
        draft = self.paths.tmp / f"{draft_name()}.safetensors"
        try:
            with draft.open("xb") as out:
                for chunk in verified_chunks(file.source, file.sha256):
                    out.write(chunk)
                    yield len(chunk)
            flush_file(draft)
            folder.mkdir(exist_ok=True)
            draft.replace(file.target)
        finally:
            draft.unlink(missing_ok=True)

    def _place(self, draft: Path) -> None:
        """Replace the old database with the new one."""
        set_wal(draft)
        flush_file(draft)
        if self.paths.database.exists():
            _settle(self.paths.database)
        draft.replace(self.paths.database)
        flush_folder(self.paths.root)


def _settle(database: Path) -> None:
    """Merge everything that belongs to the old database into its one file.

    A log left beside it would be taken for the new database's and replayed onto that. From here to
    the rename, and if the rename never happens, the old database is complete without a log.
    """
    with described_errors(database), closing(connect(database)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # rolls a crash back
        (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    if mode != "delete":
        raise LockedError(
            f"{database} is being read by another process", reason="registry-locked", path=database
        )
    for end in ("-journal", "-wal", "-shm"):
        database.with_name(database.name + end).unlink(missing_ok=True)
    flush_folder(database.parent)


def _blobs(registry: Registry, copy: Registry, history: History) -> Iterator[_File]:
    """Yield the blobs that a copy of the database needs."""
    with described_errors(copy.paths.database), closing(connect(copy.paths.database)) as connection:
        sizes = dict(connection.execute("SELECT sha256, size FROM blobs").fetchall())
    for sha256 in sorted(history.needed_blobs()):
        yield _File(
            registry.blobs.path(sha256), copy.blobs.path(sha256), sha256, sizes.get(sha256, 0)
        )


def _experts(source: RegistryPaths, target: RegistryPaths) -> Iterator[_File]:
    """Yield the experts in `trained`: TASK.SHA256.safetensors."""
    for path in sorted(source.trained.glob("*.safetensors")):
        sha256 = path.stem.rpartition(".")[2]
        if is_sha256(sha256):
            try:
                size = path.lstat().st_size
            except FileNotFoundError as error:
                raise VanishedError(str(path)) from error
            yield _File(path, target.trained / path.name, sha256, size)


def _remove_other_experts(paths: RegistryPaths, kept: set[Path]) -> None:
    """Remove experts that no longer wait, if the backup now has their sessions.

    One that exists nowhere else (the backup was used, or the task trained again) is kept.
    """
    here = Registry(paths)
    for expert in list(_experts(paths, paths)):
        if expert.target not in kept and _is_committed(here, expert.target):
            expert.target.unlink(missing_ok=True)


def _is_committed(registry: Registry, path: Path) -> bool:
    try:
        training = registry.waiting.open(path).metadata.get("training")
    except IntegrityError:  # no way to tell which training it is from
        return False
    run = training.get("run") if isinstance(training, dict) else None
    return isinstance(run, str) and registry.session_of_run(run) is not None


def _is_there(file: _File) -> bool:
    """Return whether the file was copied before; a truncated one is copied again."""
    try:
        return not file.target.is_symlink() and file.target.stat().st_size == file.size
    except FileNotFoundError:
        return False


def _refuse_nested(source: Path, target: Path) -> None:
    if target == source or source in target.parents or target in source.parents:
        raise UsageError(
            f"{target} cannot be a backup of {source}: one is inside the other",
            reason="backup-nested",
            path=target,
            registry=source,
        )


def _earlier_backup(registry: Registry, target: Path) -> Registry:
    """Return the backup at `target`; raise UsageError if it is not a backup of `registry`."""
    if not RegistryPaths(target).database.is_file():
        raise UsageError(
            f"{target} is not a backup of the registry at {registry.path}",
            reason="not-a-backup",
            path=target,
            registry=registry.path,
        )
    earlier = Registry.open(target)
    if (earlier.created_at, earlier.config) != (registry.created_at, registry.config):
        raise UsageError(
            f"{target} is another registry, not a backup of {registry.path}",
            reason="not-a-backup",
            path=target,
            registry=registry.path,
        )
    return earlier


def _refuse_other_sessions(known: frozenset[str], history: History, target: Path) -> None:
    """Refuse a backup with sessions of its own: it was used as a registry."""
    others = known - {session.id for session in history.sessions}
    if others:
        raise UsageError(
            f"{target} has {len(others)} sessions that the registry does not have; a backup "
            "would remove them",
            reason="backup-has-other-sessions",
            path=target,
            sessions=sorted(others),
        )
