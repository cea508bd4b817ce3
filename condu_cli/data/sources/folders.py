"""A data set as a folder of pictures, one sub-folder per class (ImageFolder's layout).

Either `train/CLASS/…` and `test/CLASS/…`, or `CLASS/…` alone, which is split 80/20 by a seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.data.class_names import class_names_for
from condu_cli.data.labelled import (
    SPLIT_SEED,
    Found,
    LabelledPictures,
    SplitPictures,
    labelled,
    samples_of,
)
from condu_cli.data.pictures.formats import is_picture_name
from condu_cli.data.pictures.walking import (
    FolderId,
    folder_ids,
    is_left_out,
    not_readable,
    subfolders,
    walk,
)
from condu_cli.data.split_names import (
    TEST,
    TRAIN,
    VALIDATION,
    by_split,
    split_of,
    split_without_train,
)
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
    splits = _splits(root)
    if splits and TRAIN not in splits:
        raise split_without_train(root, next(iter(splits.values())).name)
    test_root = splits.get(TEST) or splits.get(VALIDATION)
    trees = [_Tree(splits.get(TRAIN, root))]
    if TRAIN in splits and test_root is not None:
        trees.append(_Tree(test_root))
    if not any(tree.by_class for tree in trees):
        raise _no_pictures(root)
    beside = _beside(root, [tree.root for tree in trees])
    stray = [] if trees[0].root == root else _stray_pictures(root)
    found = Found(
        source=root,
        beside=root,
        train=trees[0].by_class,
        test=trees[1].by_class if len(trees) > 1 else None,
        form="folders",
        ignored=tuple(str(path) for path in (*stray, *(p for t in trees for p in t.ignored))),
        omitted=(*beside, *(line for tree in trees for line in tree.omitted)),
        empty_classes=tuple(trees[0].empty),
    )
    return labelled(found, class_names_file, split_seed)


def read_split(root: Path, split: str, class_names_file: Path | None = None) -> SplitPictures:
    """Read labelled pictures to measure on.

    They are those of that split if it exists, else those of training, else all below `root`: they
    are not used for training, so nothing is split off and a single class is enough.

    Raises:
        DataError: no such folder, no pictures, or class names that do not match the folders.

    """
    _require_folder(root)
    splits = _splits(root)
    order = (TEST, VALIDATION, TRAIN) if split == TEST else (split, TRAIN)
    tree = _Tree(next((splits[kind] for kind in order if kind in splits), root))
    if not tree.by_class:
        raise _no_pictures(root)
    folders = tuple(tree.by_class)
    names = class_names_for(folders, class_names_file, root)
    return SplitPictures(folders, names, samples_of(tree.by_class, folders), tuple(tree.omitted))


class _Tree:
    """A folder of class folders: pictures by class, empty classes, and what is not used.

    Raises:
        DataError: a class folder may not be read, or the classes look like splits.

    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_class: dict[str, list[Path]] = {}
        self.empty: list[str] = []
        self.ignored = _stray_pictures(root)
        every = subfolders(root)
        folders = [path for path in every if not is_left_out(path.name)]
        self.omitted = [f"{path}: not entered" for path in every if is_left_out(path.name)]
        _refuse_nested(root, folders)
        # A link from one class to its parent or to another class must not bring their pictures.
        seen = folder_ids([root, *folders])
        for folder in folders:
            self._add(folder, seen)

    def _add(self, folder: Path, seen: set[FolderId]) -> None:
        found = walk(folder, seen)
        if folder in found.unreadable:
            raise not_readable(folder)
        self.ignored += found.others
        self.omitted += found.omissions()
        if found.pictures:
            self.by_class[folder.name] = found.pictures
        else:
            self.empty.append(folder.name)


def _splits(root: Path) -> dict[str, Path]:
    """Return the folder of each split below a folder.

    A folder called `train` is a split if it holds class folders, else a class of trains.
    """
    folders = [path.name for path in subfolders(root) if split_of(path.name) and subfolders(path)]
    return {kind: root / name for kind, name in by_split(folders, root).items()}


def _beside(root: Path, used: list[Path]) -> list[str]:
    """Say which folders are beside the splits that are used."""
    if used == [root]:
        return []
    others = [path for path in subfolders(root) if path not in used]
    return [f"{path}: beside the splits" for path in others if not is_left_out(path.name)]


def _refuse_nested(root: Path, folders: list[Path]) -> None:
    """Refuse folders that all hold the same sub-folders: they may be splits of the real classes."""
    if len(folders) < 2:
        return
    inner: set[str] | None = None
    for folder in folders:
        names = {path.name for path in subfolders(folder) if not is_left_out(path.name)}
        if len(names) < 2 or (inner is not None and names != inner):
            return
        inner = names
    shared = sorted(inner or ())
    raise DataError(
        f"{root}: all {len(folders)} folders ({', '.join(p.name for p in folders[:3])}) hold "
        f"the same sub-folders ({', '.join(shared[:3])}): which of them are the classes?",
        reason="classes-nested",
        path=root,
    )


def _no_pictures(root: Path) -> DataError:
    return DataError(
        f"{root}: no pictures in subfolders", reason="no-pictures", path=root, form="folders"
    )


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


def _stray_pictures(folder: Path) -> list[Path]:
    """Return the pictures beside the class folders."""
    return sorted(
        path
        for path in folder.iterdir()
        if is_picture_name(path) and not path.name.startswith(".") and not path.is_dir()
    )
