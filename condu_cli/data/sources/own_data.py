"""The user's own data: one way to read labelled pictures in any supported form.

a folder                        `folders`: train/CLASS and test/CLASS, or CLASS alone
a .csv, .tsv, .jsonl file       `lists`: paths and labels
what `save_to_disk` wrote       `hugging_face`, if `datasets` is installed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.data.class_names import class_names_for
from condu_cli.data.labelled import SPLIT_SEED, SplitPictures, labelled, samples_of
from condu_cli.data.sources.folders import read_folder, read_split
from condu_cli.data.sources.hugging_face import (
    find_in_hugging_face,
    is_hugging_face,
    split_in_hugging_face,
)
from condu_cli.data.sources.lists import find_in_manifest, is_manifest, split_in_manifest
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from condu_cli.data.labelled import ByClass, LabelledPictures


def read_source(
    path: Path, class_names: Path | None = None, *, split_seed: int = SPLIT_SEED
) -> LabelledPictures:
    """Read pictures, classes and class names without decoding pictures.

    Raises:
        DataError: the path is missing or cannot be read, there are no pictures, fewer than two
            classes, test classes that are not in training, or class names that do not match.

    """
    if path.is_file() and is_manifest(path):
        return labelled(find_in_manifest(path), class_names, split_seed)
    if is_hugging_face(path):
        return labelled(find_in_hugging_face(path), class_names, split_seed)
    _refuse_other_files(path)
    return read_folder(path, class_names, split_seed=split_seed)


def read_source_split(path: Path, split: str, class_names: Path | None = None) -> SplitPictures:
    """Read labelled pictures to measure on.

    They are those of the split if it exists, else all: they are not used for training, so nothing
    is split off and a single class is enough.

    Raises:
        DataError: the path cannot be read, has no pictures, or class names do not match.

    """
    by_class: ByClass
    if path.is_file() and is_manifest(path):
        by_class, beside = split_in_manifest(path, split), path.parent
    elif is_hugging_face(path):
        by_class, beside = split_in_hugging_face(path, split), path
    else:
        _refuse_other_files(path)
        return read_split(path, split, class_names)
    if not by_class:
        raise DataError(f"{path}: no labelled pictures", reason="no-labelled-pictures", path=path)
    folders = tuple(by_class)
    names = class_names_for(folders, class_names, beside, "labels")
    return SplitPictures(folders, names, samples_of(by_class, folders))


def _refuse_other_files(path: Path) -> None:
    if path.is_file():
        raise DataError(
            f"{path}: is neither a folder nor a list of pictures",
            reason="not-a-data-set",
            path=path,
        )
