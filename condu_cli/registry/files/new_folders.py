"""Build a folder so that nobody ever sees it half done at its place.

A place that does not exist is built beside itself and renamed. One that exists, as a mount point or
a shell's current folder, cannot be replaced: its content is built in a hidden folder inside, then
moved up, the database last, since that is what makes it a registry.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from condu_cli.disk import contents_of, flush_folder
from condu_cli.errors import UsageError
from condu_cli.registry.files.drafts import draft_name, is_abandoned
from condu_cli.registry.files.paths import RegistryPaths

INSIDE = "condu"
"""What hidden folders inside are called, before the name of a draft."""

_DRAFT = re.compile(r"[A-Za-z0-9_]{1,40}-\d{1,10}-[0-9a-f]{16}")


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

    `place` must be free. It is flushed to disk with its name, but not the files in it.
    """
    if not place.exists():
        with built_beside(place) as draft:
            yield draft
            draft.rename(place)
            flush_folder(place.parent)
        return
    for path in _unfinished(place):
        _remove(path)
    draft = place / f".{INSIDE}-{draft_name()}"
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
        for abandoned in _drafts(place.parent, place.name):
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
    yield from _drafts(place.parent, place.name)
    yield from _drafts(place, INSIDE)


def _drafts(parent: Path, name: str) -> Iterator[Path]:
    for folder in parent.glob(f".{escape(name)}-*"):
        named = _DRAFT.fullmatch(folder.name.removeprefix(f".{name}-"))
        if named and folder.is_dir() and not folder.is_symlink() and is_abandoned(folder):
            yield folder


def _unfinished(place: Path) -> Iterator[Path]:
    """Yield what an interrupted attempt has left inside a place that is no registry.

    It may have moved a part of its content up; the database would have come last.
    """
    drafts = list(_drafts(place, INSIDE))
    paths = RegistryPaths(place)
    if not drafts or os.path.lexists(paths.database):
        return
    yield from (path for path in paths.own if os.path.lexists(path))
    yield from drafts


def _move_up(draft: Path, place: Path) -> None:
    """Move a finished folder's content to its parent; all or nothing."""
    database = RegistryPaths(place).database
    children = sorted(draft.iterdir(), key=lambda child: child.name == database.name)
    moved = [RegistryPaths(place).lock]
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
