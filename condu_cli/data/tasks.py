"""Opening a task's pictures: those given, those below a data root, or embedded ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from condu_cli.data.catalogue import (
    DATA_VARIABLE,
    DEFAULT_TEMPLATES,
    State,
    data_root,
    known_set_at,
    known_tasks,
    plain_folder,
    public_set,
    where,
)
from condu_cli.data.embedded import EMBEDDED_TASKS, embedded_folder
from condu_cli.data.known_sets import absent, read_known
from condu_cli.data.labelled import SPLIT_SEED
from condu_cli.data.sources import read_source, read_source_split
from condu_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from condu_cli.data.labelled import LabelledPictures, Sample

__all__ = [
    "DATA_VARIABLE",
    "DEFAULT_TEMPLATES",
    "data_root",
    "find_data",
    "known_tasks",
    "locate_data",
    "open_data",
    "open_split",
    "split_seed_of",
    "templates_for",
]


def templates_for(task: str, given: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The templates to use: those given, else the known task's, else `a photo of a {}.`.

    Raises:
        UsageError: a given template does not hold `{}` exactly once.

    """
    for template in given:
        if template.count("{}") != 1:
            raise UsageError(
                f"the template '{template}' must hold {{}} once, where the class name goes",
                "For instance --template 'a photo of a {}.'",
            )
    if given:
        return given
    known = known_tasks().get(task)
    return known.templates if known else DEFAULT_TEMPLATES


def open_data(
    task: str,
    given: Path | None,
    data_root: Path | None,
    class_names: Path | None,
    *,
    download: bool = False,
    split_seed: int = SPLIT_SEED,
) -> tuple[LabelledPictures, Path]:
    """Read a task's pictures, and say where they lie.

    That is `given`, else what `find_data` finds. The place of a public data set is its own
    folder below the data root; `open_data` and `open_split` know it again when it is given.

    Raises:
        DataError: no pictures, or class names that do not match.
        UsageError: there is no folder to download to.

    """
    place = given if given is not None else find_data(task, data_root, download=download)
    return _open(place, class_names, split_seed), place


def open_split(
    task: str,
    given: Path | None,
    data_root: Path | None,
    class_names: Path | None,
    *,
    split: str,
    learned_from: Path | None = None,
    split_seed: int = SPLIT_SEED,
    download: bool = False,
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Sample, ...], Path]:
    """Read the pictures of one split to measure on: folders, class names, samples and place.

    They are looked for where the task was learned from, unless other pictures or another data
    root are named. What the task was learned from, and a public data set, is read as in
    learning, so that no training picture counts as a test picture.

    Raises:
        DataError: no pictures, or class names that do not match.
        UsageError: there is no folder to download to.

    """
    place = given if given is not None or data_root is not None else learned_from
    if place is None:
        place = find_data(task, data_root, download=download)
    same = learned_from is not None and place.resolve() == learned_from.resolve()
    if not same and known_set_at(place) is None:
        return (*read_source_split(place, split, class_names), place)
    data = _open(place, class_names, split_seed)
    samples = data.test if split == "test" else data.train
    return data.folders, data.class_names, samples, place


def _open(place: Path, class_names: Path | None, split_seed: int) -> LabelledPictures:
    known = known_set_at(place)
    if known is not None:
        task, root = known
        return read_known(task, root, class_names=class_names)
    return read_source(place, class_names, split_seed=split_seed)


def split_seed_of(split: str) -> int:
    """The seed that a record of how train and test came apart names, else the default."""
    found = re.search(r"seed (\d+)", split)
    return int(found.group(1)) if found else SPLIT_SEED


def find_data(task: str, data_root: Path | None, *, download: bool = False) -> Path:
    """Where a task's pictures lie when nobody names them.

    In the data root given or `CONDU_DATA`: a public data set in its own layout, or the folder
    `ROOT/TASK`; a public data set is downloaded if wanted. Else embedded pictures.

    Raises:
        DataError: none of them is there, or the download failed.
        UsageError: there is no folder to download to.

    """
    root = _chosen_root(data_root)
    public = public_set(task)
    if root is None and public is not None and download:
        raise UsageError(
            "--download needs a folder to download to",
            f"Pass --data-root DIR, or set {DATA_VARIABLE}",
        )
    if root is not None:
        if public is not None and where(task, root).state is State.THERE:
            return root / public.folder
        plain = plain_folder(task, root)
        if plain is not None:
            return plain
        if public is not None:
            if not download:
                raise absent(task, root)
            from condu_cli.data.downloading import download_set

            download_set(task, root)
            return root / public.folder
    if task in EMBEDDED_TASKS:
        return embedded_folder(task)
    raise _nowhere(task, root)


def _nowhere(task: str, root: Path | None) -> DataError:
    looked = "" if root is None else f" (looked in {root / task})"
    public = public_set(task)
    message = f"no pictures for task '{task}'{looked}"
    if public is None:
        return DataError(
            message,
            f"Pass --data DIR, or put them in a folder {task} below --data-root or "
            f"${DATA_VARIABLE}",
        )
    return DataError(
        message,
        f"Pass --data DIR, or say below which folder the data sets lie: --data-root DIR or "
        f"{DATA_VARIABLE}; condu tasks {task} says what belongs there",
    )


def _chosen_root(given: Path | None) -> Path | None:
    return given if given is not None else data_root()


def locate_data(task: str, given: Path | None) -> Path:
    """Where a task's pictures lie: the folder given, or what `find_data` finds.

    Raises:
        DataError: none is there.

    """
    return given if given is not None else find_data(task, None)
