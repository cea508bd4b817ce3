"""The classes of an expert to import: from options, from its pictures, or from condu's note."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from condu_cli.data.class_names import (
    class_list,
    name_unknown,
    places_among,
    refuse_odd_text,
    unknown_among,
)
from condu_cli.data.sources.own_data import read_source
from condu_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from condu_cli.data.labelled import LabelledPictures, Sample
    from condu_cli.workflows.transfers.exporting import ExportNote


def read_data(
    folder: Path | None, class_names: Path | None, note: ExportNote | None
) -> LabelledPictures | None:
    """Return the pictures, labelled by the noted classes if no class names were given.

    Raises:
        DataError: the pictures cannot be read, or their classes are not those of the note.

    """
    if folder is None:
        return None
    data = read_source(folder, class_names)
    if class_names is not None or note is None or not note.classes:
        return data
    return _labelled_as_noted(folder, note, data)


def classes_of(
    weights: Path,
    class_names: Path | None,
    note: ExportNote | None,
    data: LabelledPictures | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return folders and names of the task's classes, in the same order.

    Raises:
        UsageError: nothing names them.
        DataError: the file of class names cannot be used.

    """
    if data is not None:
        return data.folders, data.class_names
    if class_names is not None:
        return class_list(class_names)
    if note is not None and note.classes:
        refuse_odd_text((*note.classes, *note.folders), "class", weights)
        return note.folders or note.classes, note.classes
    raise UsageError(
        f"{weights}: holds no class names, which condu needs",
        reason="classes-unknown",
        path=weights,
    )


def _labelled_as_noted(source: Path, note: ExportNote, data: LabelledPictures) -> LabelledPictures:
    """Match folders with the noted classes, by name or by folder; some may lack pictures."""
    index = places_among((note.classes, note.folders), (data.class_names, data.folders))
    if index is None:
        unknown = unknown_among(note.classes, data.class_names)
        raise DataError(
            f"{source}: the checkpoint's task has no class called {name_unknown(unknown)}",
            reason="class-not-in-checkpoint",
            path=source,
            unknown=unknown,
        )
    folders = list(note.folders or note.classes)
    for label, folder in zip(index, data.folders, strict=True):
        folders[label] = folder

    def moved(samples: Sequence[Sample]) -> tuple[Sample, ...]:
        return tuple(replace(sample, label=index[sample.label]) for sample in samples)

    return replace(
        data,
        folders=tuple(folders),
        class_names=note.classes,
        train=moved(data.train),
        test=moved(data.test),
    )
