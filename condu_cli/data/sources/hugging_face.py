"""Read data sets that Hugging Face's `datasets` wrote with `save_to_disk`.

The library is not a dependency of condu. Pictures are decoded lazily, by Pillow like all others.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condu_cli.data.labelled import Found
from condu_cli.data.pictures.picture_files import StoredPicture, opened
from condu_cli.data.sources.lists import LABEL_COLUMNS
from condu_cli.data.split_names import TEST, TRAIN, VALIDATION, by_split
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

    from condu_cli.data.pictures.picture_files import Picture

WHOLE = ""
"""The name used here for a data set without splits."""


@dataclass(frozen=True)
class HuggingFaceStore:
    """The image column of one split, by names only, so that each worker opens it itself."""

    root: str
    split: str
    column: str

    def picture(self, index: int) -> Image.Image:
        """Open the picture in a row; raises what Pillow or the library raises."""
        cell = _undecoded(self.root, self.split, self.column)[index][self.column]
        if cell is None:
            raise ValueError("the row holds no picture")
        if cell["bytes"] is not None:
            return opened(io.BytesIO(cell["bytes"]))
        return opened(Path(cell["path"]))

    def content(self, index: int) -> bytes:
        """Return the encoded picture in a row; a row without one is a missing file."""
        cell = _undecoded(self.root, self.split, self.column)[index][self.column]
        if cell is None:
            raise FileNotFoundError
        stored: bytes | None = cell["bytes"]
        return Path(cell["path"]).read_bytes() if stored is None else stored


def is_hugging_face(path: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    whole = (path / "dataset_info.json").is_file() and (path / "state.json").is_file()
    return whole or (path / "dataset_dict.json").is_file()


def find_in_hugging_face(root: Path) -> Found:
    """Find the pictures of a saved data set by class, without decoding them.

    Rows without a label, or with a negative one, are ignored and counted: public test splits often
    have no labels.

    Raises:
        DataError: the library is missing, the folder cannot be read, or there is no column of kind
            Image or ClassLabel.

    """
    splits = _load(str(root))
    named = by_split(splits, root)
    test = _test_split(splits, named)
    train_name = named.get(TRAIN) or next(iter(splits), WHOLE)
    train = _Split(root, train_name, splits)
    apart = _Split(root, test, splits) if test not in (None, train_name) else None
    return Found(
        source=root,
        beside=root,
        train=train.by_class,
        test=None if apart is None else apart.by_class,
        form="hugging-face",
        split="as saved",
        kind="labels",
        ignored=(*train.ignored, *(apart.ignored if apart else ())),
        empty_classes=tuple(name for name in train.names if name not in train.by_class),
    )


def split_in_hugging_face(root: Path, split: str) -> dict[str, list[Picture]]:
    """Return the pictures of one split by class, or of all splits if there is no such split."""
    splits = _load(str(root))
    named = by_split(splits, root)
    chosen = _test_split(splits, named) if split == TEST else named.get(split)
    if chosen is not None and _has_labels(splits, chosen):
        return _Split(root, chosen, splits).by_class
    by_class: dict[str, list[Picture]] = {}
    for name in splits:
        for label, pictures in _Split(root, name, splits).by_class.items():
            by_class.setdefault(label, []).extend(pictures)
    return {label: by_class[label] for label in sorted(by_class)}


class _Split:
    """One split: pictures by class name, and the rows without a label."""

    def __init__(self, root: Path, name: str, splits: Mapping[str, Any]) -> None:
        dataset = splits[name]
        picture, label = _columns(root, dataset.features)
        store = HuggingFaceStore(str(root), name, picture)
        self.names: list[str] = dataset.features[label].names
        found: dict[str, list[Picture]] = {class_name: [] for class_name in self.names}
        ignored: list[str] = []
        for index, value in enumerate(dataset[label]):
            row = f"{name or 'row'}[{index}]"  # without the folder, which may be renamed
            if value is None or value < 0:
                ignored.append(f"{row}: no label")
            else:
                found[self.names[value]].append(StoredPicture(row, store, index))
        self.ignored = tuple(ignored)
        # Alphabetical, like class folders.
        self.by_class = {label: found[label] for label in sorted(found) if found[label]}


def _test_split(splits: Mapping[str, Any], named: Mapping[str, str]) -> str | None:
    """Return the name of the test split, or else of the validation split, if it has labels."""
    found = (named[kind] for kind in (TEST, VALIDATION) if kind in named)
    return next((name for name in found if _has_labels(splits, name)), None)


def _has_labels(splits: Mapping[str, Any], name: str) -> bool:
    _, label = _columns(Path(name), splits[name].features)
    return any(value is not None and value >= 0 for value in splits[name][label])


def _columns(root: Path, features: Mapping[str, Any]) -> tuple[str, str]:
    """Find the image and the label column by their features."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    pictures = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if not pictures or not labels:
        lacks = "ClassLabel" if pictures else "Image"
        raise DataError(
            f"{root}: no column of kind {lacks}", reason="column-missing", path=root, column=lacks
        )
    return _the_one(root, pictures, ("image", "img", "picture")), _the_one(
        root, labels, LABEL_COLUMNS
    )


def _the_one(root: Path, columns: list[str], usual: tuple[str, ...]) -> str:
    """Return the only column of a kind, or the one with the usual name."""
    named = [name for name in usual if name in columns]
    if len(columns) > 1 and not named:
        raise DataError(
            f"{root}: several columns are possible: {', '.join(columns)}",
            reason="column-ambiguous",
            path=root,
            column=columns[0],
            usual=usual[0],
        )
    return named[0] if named else columns[0]


@lru_cache(maxsize=4)
def _load(root: str) -> dict[str, Any]:
    """Load the splits of a saved data set by name, once per process."""
    try:
        datasets: Any = import_module("datasets")
    except ImportError as exc:
        raise DataError(
            f"{root}: a Hugging Face data set, but `datasets` is not installed",
            reason="library-missing",
            package="datasets",
        ) from exc
    try:
        found = datasets.load_from_disk(root)
    except Exception as exc:  # its many file formats raise anything
        raise DataError(
            f"{root}: cannot be read ({exc})", reason="data-set-unreadable", path=root
        ) from exc
    return dict(found) if isinstance(found, dict) else {WHOLE: found}


@lru_cache(maxsize=16)
def _undecoded(root: str, split: str, column: str) -> Any:
    """Return a split with each picture's encoded bytes or path instead of the picture."""
    datasets: Any = import_module("datasets")
    return (
        _load(root)[split]
        .select_columns([column])
        .cast_column(column, datasets.Image(decode=False))
    )
