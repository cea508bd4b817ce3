"""A data set as a folder of pictures, one sub-folder per class (ImageFolder's layout).

Either `train/CLASS/…` and `test/CLASS/…`, or `CLASS/…` alone, which is split 80/20 by a seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.data.class_names import class_names_for
from condu_cli.data.labelled import (
    SPLIT_SEED,
    TEST_FOLDERS,
    Found,
    LabelledPictures,
    Sample,
    labelled,
    samples_of,
)
from condu_cli.data.pictures.picture_files import is_picture_name, sort_files
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def read_folder(
    root: Path, class_names_file: Path | None = None, *, split_seed: int = SPLIT_SEED
) -> LabelledPictures:
    """Read a data set's layout and class names without decoding pictures.

    Files in class folders that are not pictures, and pictures outside class folders, are ignored
    and counted.

    Raises:
        DataError: no such folder, no pictures, fewer than two classes, test classes that are
            not in training, or class names that do not match the folders.

    """
    _require_folder(root)
    test_root = next((root / name for name in TEST_FOLDERS if _is_split(root / name)), None)
    if not _is_split(root / "train"):
        trees = [_Tree(root)]
    elif test_root is None:
        trees = [_Tree(root / "train")]
    else:
        trees = [_Tree(root / "train"), _Tree(test_root)]
    if not any(tree.by_class for tree in trees):
        raise DataError(
            f"{root}: no pictures in subfolders", reason="no-pictures", path=root, form="folders"
        )
    stray = _stray_pictures(root) if trees[0].root != root else []
    found = Found(
        source=root,
        beside=root,
        train=trees[0].by_class,
        test=trees[1].by_class if len(trees) > 1 else None,
        form="folders",
        ignored=tuple(str(path) for path in (*stray, *(p for t in trees for p in t.ignored))),
        empty_classes=tuple(trees[0].empty),
    )
    return labelled(found, class_names_file, split_seed)


def read_split(
    root: Path, split: str, class_names_file: Path | None = None
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Sample, ...]]:
    """Read labelled pictures to measure on: folders, class names and samples.

    They are those of `root/SPLIT` if it exists, else of `root/train`, else of `root`: they are not
    used for training, so nothing is split off and a single class is enough.

    Raises:
        DataError: no such folder, no pictures, or class names that do not match the folders.

    """
    _require_folder(root)
    names = (*TEST_FOLDERS, "train") if split == "test" else (split, "train")
    chosen = next((root / name for name in names if _is_split(root / name)), root)
    by_class = _Tree(chosen).by_class
    if not by_class:
        raise DataError(
            f"{root}: no pictures in subfolders", reason="no-pictures", path=root, form="folders"
        )
    folders = tuple(by_class)
    return folders, class_names_for(folders, class_names_file, root), samples_of(by_class, folders)


class _Tree:
    """A folder of class folders: pictures by class, empty classes, and ignored files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_class: dict[str, list[Path]] = {}
        self.empty: list[str] = []
        self.ignored = _stray_pictures(root)
        for folder in sorted(root.iterdir()):
            if folder.is_dir() and not folder.name.startswith("."):
                self._add(folder)

    def _add(self, folder: Path) -> None:
        pictures, others = sort_files(folder)
        self.ignored += others
        if pictures:
            self.by_class[folder.name] = pictures
        else:
            self.empty.append(folder.name)


def _require_folder(root: Path) -> None:
    if not root.exists():
        raise DataError(f"{root}: no such file or folder", reason="no-such-data", path=root)
    if not root.is_dir():
        raise DataError(
            f"{root}: is a file, not a folder of pictures",
            reason="no-pictures",
            path=root,
            form="folders",
        )


def _is_split(folder: Path) -> bool:
    """A folder called `train` is a split if it holds class folders, else a class of trains."""
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())


def _stray_pictures(folder: Path) -> list[Path]:
    """Return the pictures beside the class folders."""
    return sorted(
        path
        for path in folder.iterdir()
        if is_picture_name(path) and not path.name.startswith(".") and not path.is_dir()
    )
