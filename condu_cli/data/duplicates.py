"""The same picture twice in a task: in two classes, or to train on and to test with.

Pictures are the same if their files have the same bytes. Files are compared by size, then by their
last bytes, and only what still looks alike is read to its end.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from condu_cli.data.pictures.picture_files import picture_name

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from condu_cli.data.labelled import LabelledPictures, Sample
    from condu_cli.data.pictures.picture_files import Picture

TAIL = 1024
"""Bytes at the end, which tell most pictures apart: headers are alike, ends are not."""
CHUNK = 1 << 20


class Placed(NamedTuple):
    """A picture of a task, to train on or to test with."""

    sample: Sample
    trains: bool


def duplicate_lines(data: LabelledPictures) -> tuple[str, ...]:
    """Say how many pictures are in two classes or in both splits, and name the first of each."""
    groups = same_pictures(data)
    in_classes = [g for g in groups if len({one.sample.label for one in g}) > 1]
    in_splits = [g for g in groups if len({one.trains for one in g}) > 1]
    lines = []
    if in_classes:
        names = _first_two(in_classes[0], lambda one: one.sample.label)
        lines.append(f"{_count(in_classes)} in two classes, such as {names}")
    if in_splits:
        names = _first_two(in_splits[0], lambda one: one.trains)
        lines.append(
            f"{_count(in_splits)} both to train on and to test with, such as {names}: accuracies "
            "on the test pictures will be too high"
        )
    return tuple(lines)


def same_pictures(data: LabelledPictures) -> list[list[Placed]]:
    """Return the groups of two or more pictures that are the same, in the order of the data."""
    placed = [Placed(sample, trains=True) for sample in data.train]
    placed += [Placed(sample, trains=False) for sample in data.test]
    groups = [placed]
    for tell in (_size, _tail, _digest):
        groups = [part for group in groups for part in _parts(group, tell)]
    return groups


def _parts(group: list[Placed], tell: Callable[[Picture], Hashable]) -> Iterable[list[Placed]]:
    """Part a group by what is told of its pictures; single ones and unreadable ones are dropped."""
    parts: dict[Hashable, list[Placed]] = defaultdict(list)
    for one in group:
        told = _told(tell, one.sample.picture)
        if told is not None:
            parts[told].append(one)
    return (part for part in parts.values() if len(part) > 1)


def _told(tell: Callable[[Picture], Hashable], picture: Picture) -> Hashable | None:
    try:
        return tell(picture)
    except OSError:
        return None  # whoever reads the picture says what is wrong with it


def _size(picture: Picture) -> Hashable:
    if isinstance(picture, Path):
        return picture.stat().st_size
    # A store is read once: for its pictures this already tells all.
    return hashlib.blake2b(picture.store.content(picture.index)).digest()


def _tail(picture: Picture) -> bytes:
    if not isinstance(picture, Path):
        return b""
    with picture.open("rb") as file:
        file.seek(-min(TAIL, picture.stat().st_size), os.SEEK_END)
        return file.read()


def _digest(picture: Picture) -> bytes:
    if not isinstance(picture, Path):
        return b""
    digest = hashlib.blake2b()
    with picture.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.digest()


def _count(groups: list[list[Placed]]) -> str:
    return "1 picture is" if len(groups) == 1 else f"{len(groups):,} pictures are"


def _first_two(group: list[Placed], key: Callable[[Placed], Hashable]) -> str:
    """Name the first picture of a group, and the first that differs from it."""
    first = group[0]
    other = next(one for one in group if key(one) != key(first))
    return f"{picture_name(first.sample.picture)} and {picture_name(other.sample.picture)}"
