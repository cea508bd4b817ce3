"""Find the pictures below a folder, in the same way for every command.

Links to folders are followed, each real folder once, so that no cycle is endless. Hidden folders
and the thumbnails that cameras, disks and archivers put beside pictures are left out. Whatever is
left out or may not be read is named, so that the caller can say so.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from condu_cli.data.pictures.formats import is_picture_name, missing_format
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

LEFT_OUT = frozenset(
    {
        "@eadir",  # Synology
        ".@__thumb",  # QNAP
        "__macosx",  # zip files from macOS
        "thumbnails",
        "thumbs",
        "$recycle.bin",
        "#recycle",
        "lost+found",
        "system volume information",
    }
)
"""Folders of devices and systems, in lower case: copies of pictures, or no pictures at all."""

FolderId: TypeAlias = tuple[int, int]
"""Device and inode: the same for every path to one folder."""


@dataclass
class Walked:
    """What is below a folder, each list sorted.

    `others` are files that are not pictures, `unsupported` pictures whose format cannot be read
    here, `left_out` folders that were not entered, and `unreadable` folders that cannot be listed.
    Hidden files are in none of them.
    """

    pictures: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    unsupported: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)

    def omissions(self) -> list[str]:
        """Say in one line each what a user may miss: all but `others`."""
        lines = [f"{folder}: cannot be read" for folder in self.unreadable]
        lines += [f"{folder}: not entered" for folder in self.left_out]
        by_format: dict[str, list[Path]] = defaultdict(list)
        for path in self.unsupported:
            by_format[path.suffix.lower()].append(path)
        for _, (first, *others) in sorted(by_format.items()):
            more = f" and {len(others)} more" if others else ""
            lines.append(f"{first}{more}: {missing_format(first)}")
        return lines


def walk(folder: Path, seen: set[FolderId] | None = None) -> Walked:
    """Find everything below a folder.

    `seen`: folders that are not entered again; those entered are added. The folder itself is always
    entered.
    """
    seen = set() if seen is None else seen
    found = Walked()
    waiting = [folder]
    seen |= folder_ids([folder])
    while waiting:
        waiting += _enter(waiting.pop(), found, seen)
    for paths in vars(found).values():
        paths.sort()
    return found


def list_pictures(folder: Path) -> list[Path]:
    """Return all pictures below a folder, sorted."""
    return walk(folder).pictures


def _enter(folder: Path, found: Walked, seen: set[FolderId]) -> list[Path]:
    """Sort a folder's entries into `found`; return the folders to enter next.

    In the order of their names: of two links to a folder, the same one is followed everywhere.
    """
    try:
        with os.scandir(folder) as entries:
            listed = sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError:
        found.unreadable.append(folder)
        return []
    inner = []
    for name, is_folder in listed:
        path = folder / name
        if is_folder and is_left_out(name):
            found.left_out.append(path)
        elif is_folder:
            inner.append(path)
        elif not name.startswith("."):
            _sort_file(path, found)
    new = []
    for path in inner:
        ids = folder_ids([path])
        if not ids <= seen:
            seen |= ids
            new.append(path)
    return new


def _sort_file(path: Path, found: Walked) -> None:
    if is_picture_name(path):
        found.pictures.append(path)
    elif missing_format(path) is not None:
        found.unsupported.append(path)
    else:
        found.others.append(path)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, links to folders included, sorted.

    Raises:
        DataError: the folder may not be read.

    """
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if _is_folder(entry))
    except OSError as exc:
        raise not_readable(folder) from exc


def not_readable(folder: Path) -> DataError:
    """Build the error about a folder that may not be read."""
    return DataError(
        f"{folder}: cannot be read (permission denied)", reason="permission-denied", path=folder
    )


def is_left_out(name: str) -> bool:
    """Return whether a folder of this name is never entered."""
    return name.startswith(".") or name.casefold() in LEFT_OUT


def folder_ids(folders: list[Path]) -> set[FolderId]:
    """Return the identities of the folders that exist."""
    found = set()
    for folder in folders:
        try:
            status = folder.stat()
        except OSError:
            continue
        found.add((status.st_dev, status.st_ino))
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
