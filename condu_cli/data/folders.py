"""A data set as a folder of pictures, one sub-folder per class (ImageFolder's layout).

Either `train/CLASS/…` and `test/CLASS/…`, or `CLASS/…` alone, which is split 80/20 by a seed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from condu_cli.data.pictures import list_pictures
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

TEST_SHARE = 0.2
SPLIT_SEED = 42
TEST_FOLDERS = ("test", "val", "valid", "validation")
LAYOUT_HINT = "Expected DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg, or DIR/CLASS/*.jpg"


@dataclass(frozen=True)
class Sample:
    """One labelled picture."""

    path: Path
    label: int


@dataclass(frozen=True)
class LabelledPictures:
    """A data set: class names in words, the training and the test pictures."""

    folders: tuple[str, ...]
    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    split: str
    """How train and test came apart: `folders`, or `random 80/20, seed N`."""


def read_folder(
    root: Path, class_names_file: Path | None = None, *, split_seed: int = SPLIT_SEED
) -> LabelledPictures:
    """Read a data set's layout and class names; no picture is decoded.

    Raises:
        DataError: no such folder, no pictures, fewer than two classes, test classes that are
            not in training, or class names that do not match the folders.

    """
    _require_folder(root)
    train_root = root / "train"
    has_train = _is_split(train_root)
    by_class = _pictures_by_class(train_root if has_train else root)
    test_root = next((root / name for name in TEST_FOLDERS if _is_split(root / name)), None)
    if has_train and test_root is not None:
        test_by_class = _pictures_by_class(test_root)
        split = "folders"
        _check_test_classes(root, set(by_class), set(test_by_class))
    else:
        by_class, test_by_class = _split(by_class, split_seed)
        split = f"random 80/20, seed {split_seed}"
    _check_classes(root, by_class)
    folders = tuple(sorted(by_class))
    return LabelledPictures(
        folders=folders,
        class_names=_class_names(root, folders, class_names_file),
        train=_samples(by_class, folders),
        test=_samples(test_by_class, folders),
        split=split,
    )


def read_split(
    root: Path, split: str, class_names_file: Path | None = None
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Sample, ...]]:
    """Read labelled pictures to measure on: folders, class names and samples.

    Those of `root/SPLIT` where it is there, else all of `root`: nobody trains on them here, so
    that nothing is split off, and one class is enough.

    Raises:
        DataError: no such folder, no pictures, or class names that do not match the folders.

    """
    _require_folder(root)
    names = TEST_FOLDERS if split == "test" else (split,)
    chosen = next((root / name for name in names if _is_split(root / name)), root)
    by_class = _pictures_by_class(chosen)
    if not by_class:
        raise DataError(f"{root}: no pictures in sub-folders", LAYOUT_HINT)
    folders = tuple(sorted(by_class))
    return folders, _class_names(root, folders, class_names_file), _samples(by_class, folders)


def _require_folder(root: Path) -> None:
    if not root.exists():
        raise DataError(f"{root}: no such folder", "Check --data")
    if not root.is_dir():
        raise DataError(f"{root}: is a file, not a folder of pictures", LAYOUT_HINT)


def _is_split(folder: Path) -> bool:
    """A folder called `train` is a split if it holds class folders, else a class of trains."""
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())


def few_shot(data: LabelledPictures, shots: int, seed: int) -> LabelledPictures:
    """Keep at most `shots` training pictures per class, drawn by a seed; the test split stays.

    Raises:
        DataError: fewer than one shot.

    """
    if shots < 1:
        raise DataError(f"--shots {shots}: at least one picture per class is needed", "Try 5")
    by_label: dict[int, list[Sample]] = defaultdict(list)
    for sample in data.train:
        by_label[sample.label].append(sample)
    rng = random.Random(seed)  # noqa: S311 - a draw that repeats, not a secret
    kept: list[Sample] = []
    for label in sorted(by_label):
        samples = by_label[label]
        kept += sorted(rng.sample(samples, min(shots, len(samples))), key=lambda s: s.path)
    return replace(data, train=tuple(kept))


def _pictures_by_class(root: Path) -> dict[str, list[Path]]:
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {folder.name: list_pictures(folder) for folder in classes}
    return {name: pictures for name, pictures in found.items() if pictures}


def _check_classes(root: Path, by_class: dict[str, list[Path]]) -> None:
    if not by_class:
        raise DataError(f"{root}: no pictures in sub-folders", LAYOUT_HINT)
    if len(by_class) < 2:
        raise DataError(
            f"{root}: only one class ({next(iter(by_class))}); a classifier needs two or more",
            LAYOUT_HINT,
        )


def _check_test_classes(root: Path, train: set[str], test: set[str]) -> None:
    extra = sorted(test - train)
    if train and extra:
        raise DataError(
            f"{root}: test has {len(extra)} classes that train lacks: {', '.join(extra[:3])}",
            "Training and test folders must hold the same classes",
        )


def _split(
    by_class: dict[str, list[Path]], seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Per class, so that every class keeps pictures on both sides where it has two or more."""
    train: dict[str, list[Path]] = {}
    test: dict[str, list[Path]] = {}
    for name in sorted(by_class):
        # In the order of a hash of each name, so that a picture added or removed later moves
        # hardly any other to the other side.
        pictures = sorted(by_class[name], key=lambda path: _rank(seed, name, path))
        count = round(len(pictures) * TEST_SHARE) if len(pictures) > 1 else 0
        count = max(count, 1) if len(pictures) > 1 else 0
        train[name], test[name] = sorted(pictures[count:]), sorted(pictures[:count])
    return train, test


def _rank(seed: int, class_name: str, path: Path) -> str:
    return hashlib.sha256(os.fsencode(f"{seed}:{class_name}:{path.name}")).hexdigest()


def _samples(by_class: dict[str, list[Path]], folders: tuple[str, ...]) -> tuple[Sample, ...]:
    return tuple(
        Sample(path, label) for label, name in enumerate(folders) for path in by_class.get(name, [])
    )


def _class_names(root: Path, folders: tuple[str, ...], file: Path | None) -> tuple[str, ...]:
    if file is None:
        beside = root / "classes.json"
        if not beside.is_file():
            return tuple(name.replace("_", " ") for name in folders)
        file = beside
    names = read_class_names(file)
    if isinstance(names, dict):
        missing = [name for name in folders if name not in names]
        if missing:
            raise DataError(
                f"{file}: no name for {len(missing)} classes: {', '.join(missing[:3])}",
                "Map every class folder to its name in words",
            )
        resolved = tuple(names[name] for name in folders)
    elif len(names) != len(folders):
        raise DataError(
            f"{file}: {len(names)} class names for {len(folders)} class folders",
            "Give one name per folder, in the folders' alphabetical order",
        )
    else:
        resolved = tuple(names)
    return _distinct(file, resolved)


def class_list(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Folders and class names of a task whose pictures are not at hand, in the task's order.

    A JSON object gives both, in the folders' alphabetical order, as `read_folder` would find
    them; a list gives names, which then stand for the folders as well.

    Raises:
        DataError: the file cannot be read, or holds fewer than two names or one name twice.

    """
    names = read_class_names(file)
    folders = tuple(sorted(names)) if isinstance(names, dict) else tuple(names)
    resolved = tuple(names[f] for f in folders) if isinstance(names, dict) else folders
    if len(resolved) < 2:
        raise DataError(
            f"{file}: a classifier needs two or more classes, not {len(resolved)}",
            "Give one name per class",
        )
    return folders, _distinct(file, resolved)


def _distinct(file: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{file}: two classes are called '{twice}'", "Names must differ")
    return names


def read_class_names(file: Path) -> dict[str, str] | list[str]:
    """Read class names: a JSON object (folder to name), a JSON list, or one name per line.

    Raises:
        DataError: the file is missing, or holds something else.

    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{file}: class names cannot be read ({exc})", "Check the path") from exc
    if file.suffix.lower() != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names = json.loads(text)
    except json.JSONDecodeError as exc:
        raise DataError(f"{file}: not valid JSON ({exc})", "Check the file") from exc
    values = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise DataError(
            f"{file}: class names must be a JSON object or list of strings",
            'For instance {"sealake": "sea or lake"}',
        )
    return names  # type: ignore[no-any-return]
