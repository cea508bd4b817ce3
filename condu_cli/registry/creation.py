"""Create a registry's folder, completely or not at all."""

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from glob import escape
from pathlib import Path

from condu_cli.disk import flush_folder
from condu_cli.errors import ConduError, UsageError
from condu_cli.registry.clock import utc_now
from condu_cli.registry.database import rows
from condu_cli.registry.database.engine import described_errors, make_engine, write
from condu_cli.registry.database.migration import create_database
from condu_cli.registry.files.drafts import draft_name, is_abandoned
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.manifest import RegistryConfig

README = """\
This folder is a condu registry: one base model's experts for many image tasks.

  condu.sqlite   sessions, tasks, HEAD and the journal of operations
  blobs/         unified deltas, masks, prototypes and heads; named by their sha256, never changed
  backups/       the database as it was before each migration
  trained/       experts that are trained but not committed yet: `condu learn --resume`
  runs/          trainings that were interrupted: `condu learn --resume` continues them
  tmp/           files being written
  lock           held by the process that writes

Do not edit anything here by hand: blobs and sessions are named by their hash. Use `condu log`,
`condu ls` and `condu storage-report` to look at it, and `condu rollback` to undo. `condu backup`
copies it, even while it is in use; `condu export` makes one file of it.
"""


_DRAFT = re.compile(r"[A-Za-z0-9_]{1,40}-\d{1,10}-[0-9a-f]{16}")


def create_registry(root: Path, config: RegistryConfig, command: str) -> None:
    """Create the folder `root` with an empty registry in it.

    The registry is built beside its place and renamed into it, so no one ever sees an incomplete
    registry. An existing empty folder is filled instead: it may be a mount point, or a shell's
    current folder.
    """
    _refuse_occupied(root)
    if root.exists():
        _fill(root, config, command)
        return
    created = _make_parents(root.parent)
    for abandoned in draft_folders(root):
        shutil.rmtree(abandoned, ignore_errors=True)
    draft = root.parent / f".{root.name}-{draft_name()}"
    try:
        draft.mkdir()
        _build(RegistryPaths(draft), config, command)
        draft.rename(root)
        flush_folder(root.parent)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        _remove_empty(created)
        if isinstance(error, OSError):
            raise _cannot_create(root, error) from error
        raise


def draft_folders(root: Path) -> Iterator[Path]:
    """Yield the folders that interrupted creations of a registry have left beside it."""
    for folder in root.parent.glob(f".{escape(root.name)}-*"):
        named = _DRAFT.fullmatch(folder.name.removeprefix(f".{root.name}-"))
        if named and folder.is_dir() and not folder.is_symlink() and is_abandoned(folder):
            yield folder


def _refuse_occupied(root: Path) -> None:
    if RegistryPaths(root).database.exists():
        raise UsageError(
            f"there is already a registry at {root}", reason="registry-exists", path=root
        )
    if root.exists() and not root.is_dir():
        raise UsageError(
            f"{root} is a file, but a registry is a folder",
            reason="registry-path-is-file",
            path=root,
        )
    try:
        occupied = root.exists() and any(root.iterdir())
    except OSError as error:
        raise _cannot_create(root, error) from error
    if occupied:
        raise UsageError(
            f"{root} is neither empty nor a registry", reason="folder-not-free", path=root
        )


def _fill(root: Path, config: RegistryConfig, command: str) -> None:
    try:
        _build(RegistryPaths(root), config, command)
    except BaseException as error:
        for child in root.iterdir():  # the folder was empty: all of it is ours
            if child.is_dir():
                shutil.rmtree(child, ignore_errors=True)
            else:
                with suppress(OSError):
                    child.unlink()
        if isinstance(error, OSError):
            raise _cannot_create(root, error) from error
        raise


def make_skeleton(paths: RegistryPaths) -> None:
    """Create a registry's folders and README in an empty folder; may raise OSError."""
    for folder in (paths.blobs, paths.backups, paths.tmp):
        folder.mkdir()
    paths.readme.write_text(README, encoding="utf-8")


def _build(paths: RegistryPaths, config: RegistryConfig, command: str) -> None:
    make_skeleton(paths)
    create_database(paths)
    now = utc_now()
    with described_errors(paths.database), write(make_engine(paths.database)) as transaction:
        rows.insert_config(transaction, config, now)
        rows.record(transaction, kind="init", command=command, at=now)
    flush_folder(paths.root)


def _make_parents(parent: Path) -> list[Path]:
    """Create the missing folders above the registry; return them, innermost first."""
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(missing)
        raise _cannot_create(parent, error) from error
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _cannot_create(path: Path, error: OSError) -> ConduError:
    where = error.filename or path
    return ConduError(
        f"cannot create a registry at {path}: {error.strerror or error} ({where})",
        reason="cannot-create-registry",
        path=path,
    )
