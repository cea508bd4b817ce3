"""Labelled pictures from any source: classes, class names and the two splits."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from condu_cli.data.class_names import class_names_for
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from condu_cli.data.pictures.picture_files import Picture

TEST_SHARE = 0.2
SPLIT_SEED = 42
NAMED_IGNORED = 10
"""Keep the names of at most this many ignored files."""

ByClass: TypeAlias = "Mapping[str, Sequence[Picture]]"


@dataclass(frozen=True)
class Sample:
    """One labelled picture."""

    picture: Picture
    label: int


@dataclass(frozen=True)
class LabelledPictures:
    """A data set: class names in words, training and test pictures.

    `folders`: the classes' names in the source, folders or labels. `ignored` counts files and rows
    that are not labelled pictures; `ignored_names` has the first of their names. `omitted` says in
    lines which folders were not entered and which pictures cannot be read here. `empty_classes`:
    classes of the source without pictures. `spare`: by label, the training pictures that were not
    drawn, in the order in which they replace unreadable ones.
    """

    folders: tuple[str, ...]
    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    split: str
    """How train and test were split, such as `folders` or `random 80/20, seed N`."""
    ignored: int = 0
    ignored_names: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    empty_classes: tuple[str, ...] = ()
    spare: Mapping[int, tuple[Sample, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Found:
    """What a reader found: pictures by class, classes in the order of their labels.

    `test` None: the source has no test split. `beside`: the folder that may hold `classes.json`.
    `kind`: what a class is in the source, in words. `form`: the kind of source: folders, list or
    hugging-face.
    """

    source: Path
    beside: Path
    train: ByClass
    test: ByClass | None
    form: str
    split: str = "folders"
    kind: str = "class folders"
    ignored: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    empty_classes: tuple[str, ...] = ()


class SplitPictures(NamedTuple):
    """Labelled pictures to measure on; `folders` and `omitted` as for `LabelledPictures`."""

    folders: tuple[str, ...]
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    omitted: tuple[str, ...] = ()


def labelled(found: Found, class_names: Path | None, split_seed: int) -> LabelledPictures:
    """Check and number the classes, and split the pictures if the source has no test split.

    Raises:
        DataError: fewer than two classes, test classes that are not in training, or class
            names that do not match the classes.

    """
    _check_classes(found)
    train, test, split = found.train, found.test, found.split
    if test is None:
        train, test = split_pictures(train, split_seed)
        split = f"random 80/20, seed {split_seed}"
    folders = tuple(train)
    return LabelledPictures(
        folders=folders,
        class_names=class_names_for(folders, class_names, found.beside, found.kind),
        train=samples_of(train, folders),
        test=samples_of(test, folders),
        split=split,
        ignored=len(found.ignored),
        ignored_names=found.ignored[:NAMED_IGNORED],
        omitted=found.omitted,
        empty_classes=found.empty_classes,
    )


def _check_classes(found: Found) -> None:
    extra = [name for name in found.test or () if name not in found.train]
    if extra and found.train:
        same = {name.casefold(): name for name in found.train}.get(extra[0].casefold())
        raise DataError(
            f"{found.source}: test has {len(extra)} classes that train lacks: "
            f"{', '.join(extra[:3])}",
            reason="test-classes-unknown",
            source=str(found.source),
            classes=extra,
            same=same,
        )
    if not found.train:
        raise DataError(
            f"{found.source}: no pictures to train on",
            reason="no-training-pictures",
            source=str(found.source),
            form=found.form,
        )
    if len(found.train) < 2:
        raise DataError(
            f"{found.source}: only one class ({next(iter(found.train))}); "
            "a classifier needs two or more",
            reason="one-class-only",
            source=str(found.source),
            form=found.form,
        )


def split_pictures(
    by_class: ByClass, seed: int
) -> tuple[dict[str, list[Picture]], dict[str, list[Picture]]]:
    """Split each class, so that every class with two or more pictures has some on both sides."""
    train: dict[str, list[Picture]] = {}
    test: dict[str, list[Picture]] = {}
    for name, pictures in by_class.items():
        # In the order of a hash of each name, so that adding or removing a picture moves hardly
        # any other to the other side.
        ranked = by_hash(pictures, f"{seed}:{name}:")
        count = max(round(len(ranked) * TEST_SHARE), 1) if len(ranked) > 1 else 0
        chosen = set(ranked[:count])
        train[name] = [picture for picture in pictures if picture not in chosen]
        test[name] = [picture for picture in pictures if picture in chosen]
    return train, test


def split_samples(
    samples: Sequence[Sample], folders: Sequence[str], seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split like `labelled` without a test split: return training and test samples."""
    by_class: dict[str, list[Picture]] = {folder: [] for folder in folders}
    for sample in samples:
        by_class[folders[sample.label]].append(sample.picture)
    train, test = split_pictures(by_class, seed)
    return samples_of(train, folders), samples_of(test, folders)


def fingerprint(samples: Sequence[Sample], folders: Sequence[str]) -> str:
    """Hash names, sizes and classes, to recognise the same pictures at another place.

    Names of folders above the class do not count. A file that cannot be read counts by its name.
    """
    lines = sorted(
        f"{folders[sample.label]}/{sample.picture.name}:{_size(sample.picture)}"
        for sample in samples
    )
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _size(picture: Picture) -> int:
    """Return the bytes of a picture's file, -1 if there is none or it cannot be read."""
    try:
        return picture.stat().st_size if isinstance(picture, Path) else -1
    except OSError:
        return -1


def by_hash(pictures: Sequence[Picture], salt: str) -> list[Picture]:
    """Sort pictures by a hash of their names, independent of where the data set is.

    Files with equal names are sorted by a hash of their paths relative to the folder that all of
    them share.
    """
    count = Counter(picture.name for picture in pictures)
    twice = [p for p in pictures if isinstance(p, Path) and count[p.name] > 1]
    below = _below_shared_folder(twice)

    def rank(picture: Picture) -> tuple[bytes, bytes]:
        return _digest(salt + picture.name), _digest(salt + below.get(picture, ""))

    return sorted(pictures, key=rank)


def _below_shared_folder(files: Sequence[Path]) -> dict[Picture, str]:
    """Return each file's path below the innermost folder that holds all; absolute without one."""
    paths = [os.path.abspath(file) for file in files]
    try:
        shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # no files, or several drives
        return dict(zip(files, paths, strict=True))
    return {file: path[len(shared) :] for file, path in zip(files, paths, strict=True)}


def _digest(text: str) -> bytes:
    return hashlib.sha256(os.fsencode(text)).digest()


def samples_of(by_class: ByClass, folders: Sequence[str]) -> tuple[Sample, ...]:
    """Return all pictures, class by class in the order of `folders`."""
    return tuple(
        Sample(picture, label)
        for label, name in enumerate(folders)
        for picture in by_class.get(name, [])
    )
