"""Create a registry's folder, completely or not at all."""

from pathlib import Path

from condu_cli.disk import flush_folder
from condu_cli.errors import ConduError, UsageError
from condu_cli.registry.clock import utc_now
from condu_cli.registry.database import rows
from condu_cli.registry.database.engine import described_errors, make_engine, write
from condu_cli.registry.database.migration import create_database
from condu_cli.registry.files.new_folders import is_free, new_folder, refuse_inside_registry
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.files.reserve import keep
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
  reserve        space that a writer gives up when the disk is full; nothing reads it

Do not edit anything here by hand: blobs and sessions are named by their hash. Use `condu log`,
`condu ls` and `condu storage-report` to look at it, and `condu rollback` to undo. `condu backup`
copies it, even while it is in use; `condu export` makes one file of it.
"""


def create_registry(root: Path, config: RegistryConfig, command: str) -> None:
    """Create the folder `root` with an empty registry in it; an empty folder is filled.

    Raises:
        UsageError: there is a registry or something else.
        ConduError: it cannot be written; nothing is left behind.

    """
    _refuse_occupied(root)
    try:
        with new_folder(root) as draft:
            _build(RegistryPaths(draft), config, command)
    except OSError as error:
        raise _cannot_create(root, error) from error


def _refuse_occupied(root: Path) -> None:
    refuse_inside_registry(root)
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
        occupied = not is_free(root)
    except OSError as error:
        raise _cannot_create(root, error) from error
    if occupied:
        raise UsageError(
            f"{root} is neither empty nor a registry", reason="folder-not-free", path=root
        )


def make_skeleton(paths: RegistryPaths) -> None:
    """Create a registry's folders and README in an empty folder; may raise OSError."""
    for folder in (paths.blobs, paths.backups, paths.tmp):
        folder.mkdir()
    paths.readme.write_text(README, encoding="utf-8")
    keep(paths.reserve)


def _build(paths: RegistryPaths, config: RegistryConfig, command: str) -> None:
    make_skeleton(paths)
    create_database(paths)
    now = utc_now()
    with described_errors(paths.database), write(make_engine(paths.database)) as transaction:
        rows.insert_config(transaction, config, now)
        rows.record(transaction, kind="init", command=command, at=now)
    flush_folder(paths.root)


def _cannot_create(path: Path, error: OSError) -> ConduError:
    where = error.filename or path
    return ConduError(
        f"cannot create a registry at {path}: {error.strerror or error} ({where})",
        reason="cannot-create-registry",
        path=path,
    )
