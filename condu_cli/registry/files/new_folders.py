"""Build a folder so that no one ever sees it half done at its place.

A place that does not exist is built beside itself and renamed. One that exists, as a mount point or
a shell's current folder, cannot be replaced: its content is built in a hidden folder inside, then
moved up, the database last, since that is what makes it a registry.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from condu_cli.disk import contents_of, flush_folder
from condu_cli.errors import UsageError
from condu_cli.registry.files.drafts import draft_name, is_abandoned, is_draft_name
from condu_cli.registry.files.paths import RegistryPaths

CHILDREN = ".children"
"""A file in a draft inside its place: which children are being moved up."""


def is_free(place: Path) -> bool:
    """Return whether a new folder can be built at a place; may raise OSError.

    It does not exist, or is a folder with nothing in it but what systems put into empty volumes
    and what an interrupted attempt has left behind.
    """
    if not os.path.lexists(place):
        return True
    if not place.is_dir():
        return False
    mine = set(_unfinished(place))
    return all(child in mine for child in contents_of(place))


def refuse_inside_registry(path: Path) -> None:
    """Refuse to make a file or folder below a registry's own, where it would be taken for one.

    Raises:
        UsageError: the path is inside a registry's folder.

    """
    for parent in path.resolve().parents:
        if RegistryPaths(parent).database.is_file():
            raise UsageError(
                f"{path} is inside the registry at {parent}",
                reason="output-in-registry",
                path=path,
                registry=parent,
            )


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Yield a folder to build in; it becomes the content of `place` if nothing is raised.

    `place` must be free. Its new entries are flushed to disk, but not the files themselves.
    """
    if not place.exists():
        with built_beside(place) as draft:
            yield draft
            draft.rename(place)
            flush_folder(place.parent)
        return
    for path in _unfinished(place):
        _remove(path)
    draft = place / f".new-{draft_name()}.inside"
    try:
        draft.mkdir()
        yield draft
        _move_up(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def built_beside(place: Path) -> Iterator[Path]:
    """Yield a new folder beside `place` to build in and rename; remove what is left of it."""
    made = [folder for folder in (place.parent, *place.parent.parents) if not folder.exists()]
    draft = place.parent / f".{place.name}-{draft_name()}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in _drafts_beside(place):
            shutil.rmtree(abandoned, ignore_errors=True)
        draft.mkdir()
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # not empty: it holds what was built
                folder.rmdir()


def draft_folders(place: Path) -> Iterator[Path]:
    """Yield the folders that interrupted attempts have left beside a place and inside."""
    yield from _drafts_beside(place)
    yield from _drafts_inside(place)


def _drafts_beside(place: Path) -> Iterator[Path]:
    yield from _drafts(place.parent, f".{place.name}-", "")


def _drafts_inside(place: Path) -> Iterator[Path]:
    yield from _drafts(place, ".new-", ".inside")


def _drafts(parent: Path, prefix: str, suffix: str) -> Iterator[Path]:
    for folder in parent.glob(f"{escape(prefix)}*{suffix}"):
        named = is_draft_name(folder.name.removeprefix(prefix).removesuffix(suffix))
        if named and folder.is_dir() and not folder.is_symlink() and is_abandoned(folder):
            yield folder


def _unfinished(place: Path) -> Iterator[Path]:
    """Yield what interrupted attempts have left inside a place that has not become a registry.

    One may have moved a part of its content up, the database last: what it has listed and no
    longer holds.
    """
    if os.path.lexists(RegistryPaths(place).database):
        return
    for draft in _drafts_inside(place):
        listed = draft / CHILDREN
        names = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
        for name in names:
            if os.path.lexists(place / name) and not os.path.lexists(draft / name):
                yield place / name
        yield draft


def _move_up(draft: Path, place: Path) -> None:
    """Move a finished folder's content to its parent; all or nothing."""
    database, lock = RegistryPaths(draft).database, RegistryPaths(draft).lock
    lock.unlink(missing_ok=True)  # from a migration of what was imported
    children = sorted(draft.iterdir(), key=lambda child: child == database)
    names = [lock.name, *(child.name for child in children)]
    (draft / CHILDREN).write_text("\n".join(names), encoding="utf-8")
    moved = [place / lock.name]
    # Only one process can create it: two may be filling the same empty folder.
    moved[0].touch(exist_ok=False)
    try:
        for child in children:
            target = place / child.name
            if os.path.lexists(target):
                raise FileExistsError(f"{target} was created meanwhile")
            child.rename(target)
            moved.append(target)
        flush_folder(place)
    except BaseException:
        for path in reversed(moved):
            _remove(path)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
