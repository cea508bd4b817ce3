"""Unreferenced files in a registry: what crashes and removed sessions leave behind.

Only files that condu itself writes count: blobs, by their place and name, and drafts in tmp/ of
processes that have ended. Anything else in the folder is not condu's.
"""

import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from condu_cli.errors import ConduError
from condu_cli.registry.files.drafts import is_abandoned, is_draft
from condu_cli.registry.files.listing import bytes_below
from condu_cli.registry.files.new_folders import draft_folders
from condu_cli.registry.repository import Registry

BLOB, DRAFT = "blob", "draft"


@dataclass(frozen=True)
class Leftover:
    """One file, or the folder of an interrupted creation, with its size in bytes."""

    path: Path
    kind: str
    size: int


def leftovers(registry: Registry, needed: Set[str]) -> Iterator[Leftover]:
    """Yield what is unreferenced if only `needed` blobs are; removing it needs the lock."""
    for ref in registry.blobs.all():
        if ref.sha256 not in needed:
            yield Leftover(registry.blobs.path(ref.sha256), BLOB, ref.size)
    for path in sorted(registry.paths.tmp.glob("*")):
        if not path.is_symlink() and is_abandoned(path):
            with suppress(FileNotFoundError):
                size = bytes_below(path) if path.is_dir() else path.stat().st_size
                yield Leftover(path, DRAFT, size)
    for folder in draft_folders(registry.path):
        yield Leftover(folder, DRAFT, bytes_below(folder))


def unknown_files(registry: Registry) -> Iterator[Path]:
    """Yield files in the registry's folders that condu did not write and leaves alone."""
    yield from registry.blobs.unknown()
    yield from registry.waiting.unknown()
    yield from registry.runs.unknown()
    for path in sorted(registry.paths.tmp.glob("*")):
        if path.is_symlink() or not is_draft(path):
            yield path


def remove_leftover(registry: Registry, leftover: Leftover) -> None:
    """Remove a leftover; raise ConduError on failure."""
    if leftover.kind == BLOB:
        registry.blobs.remove(leftover.path.name)
        return
    try:
        if leftover.path.is_dir():
            shutil.rmtree(leftover.path)
        else:
            leftover.path.unlink(missing_ok=True)
    except OSError as error:
        raise ConduError(
            f"cannot remove {leftover.path}: {error.strerror or error}",
            reason="cannot-remove",
            path=leftover.path,
        ) from error


@contextmanager
def removed_on_failure(registry: Registry) -> Iterator[None]:
    """If the block fails, remove the blobs that it wrote: a full disk needs the space.

    The caller holds the lock. Blobs that the database refers to are kept.
    """
    with registry.blobs.noting_new() as new:
        try:
            yield
        except BaseException:
            with suppress(ConduError):
                for sha256 in new - registry.needed_among(new):
                    registry.blobs.remove(sha256)
            raise
