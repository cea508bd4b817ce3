"""Open a task's pictures: given ones, those in a data root, or embedded ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from condu_cli.data.class_names import refuse_odd_text
from condu_cli.data.labelled import SPLIT_SEED, SplitPictures, fingerprint, split_samples
from condu_cli.data.sources.embedded import EMBEDDED_TASKS, embedded_folder
from condu_cli.data.sources.known_tasks import (
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
from condu_cli.data.sources.own_data import read_source, read_source_split
from condu_cli.data.sources.public_sets import absent, read_known
from condu_cli.data.split_names import TEST
from condu_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from condu_cli.data.labelled import LabelledPictures


@dataclass(frozen=True)
class LearnedFrom:
    """What a task was learned from: the place, and how the test pictures were split off.

    `held_out`: `fingerprint` of the test pictures, to recognise them at another place; None if it
    was not recorded.
    """

    place: Path | None = None
    split_seed: int = SPLIT_SEED
    held_out: str | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any], place: Path | None) -> LearnedFrom:
        """Read it from a training record, which holds no `place`: records leave the machine."""
        found = re.search(r"seed (\d+)", str(record.get("split", "")))
        seed = int(found.group(1)) if found else SPLIT_SEED
        return cls(place, seed, record.get("test_fingerprint"))

    def is_at(self, place: Path) -> bool:
        """Return whether this is the place that the task was learned from."""
        return self.place is not None and place.resolve() == self.place.resolve()


def templates_for(task: str, given: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the templates: those given, else the known task's, else `a photo of a {}.`.

    Raises:
        UsageError: a template does not contain `{}` exactly once, or is not one line of text.

    """
    refuse_odd_text(given, "template")
    for template in given:
        if template.count("{}") != 1:
            raise UsageError(
                f"the template '{template}' must contain {{}} once, where the class name goes",
                reason="template-without-place",
                template=template,
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
    """Read a task's pictures, and return them and where they are.

    The place is `given`, else what `find_data` finds. For a public data set it is its own folder in
    the data root, by which `open_data` and `open_split` recognise it when it is given.

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
    learned: LearnedFrom | None = None,
    download: bool = False,
) -> tuple[SplitPictures, Path]:
    """Read the pictures of one split to measure on, and return them and where they are.

    They are looked for where the task was learned from, unless other pictures or another data root
    are given. The pictures that the task was learned from, wherever they are now, and public data
    sets are read as in learning, so that no training picture counts as a test picture.

    Raises:
        DataError: no pictures, or class names that do not match.
        UsageError: there is no folder to download to.

    """
    learned = learned or LearnedFrom()
    place = given if given is not None or data_root is not None else learned.place
    if place is None:
        place = find_data(task, data_root, download=download)
    if known_set_at(place) is not None or learned.is_at(place):
        data = _open(place, class_names, learned.split_seed)
        samples = data.test if split == TEST else data.train
        return SplitPictures(data.folders, data.class_names, samples, data.omitted), place
    found = read_source_split(place, split, class_names)
    if learned.held_out is not None:
        train, test = split_samples(found.samples, found.folders, learned.split_seed)
        if fingerprint(test, found.folders) == learned.held_out:
            found = found._replace(samples=test if split == TEST else train)
    return found, place


def _open(place: Path, class_names: Path | None, split_seed: int) -> LabelledPictures:
    known = known_set_at(place)
    if known is not None:
        task, root = known
        return read_known(task, root, class_names=class_names)
    return read_source(place, class_names, split_seed=split_seed)


def find_data(task: str, data_root: Path | None, *, download: bool = False) -> Path:
    """Find a task's pictures if none are given.

    In `data_root` or `CONDU_DATA` it looks for a public data set in its own layout, then for the
    folder `ROOT/TASK`; a public data set is downloaded if requested. Else embedded pictures.

    Raises:
        DataError: no pictures were found, or the download failed.
        UsageError: there is no folder to download to.

    """
    root = _chosen_root(data_root)
    public = public_set(task)
    if root is None and public is not None and download:
        raise UsageError(
            "a download needs a folder to download to",
            reason="no-data-root",
            task=task,
            variable=DATA_VARIABLE,
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
            from condu_cli.data.sources.downloads import download_set

            download_set(task, root)
            return root / public.folder
    if task in EMBEDDED_TASKS:
        return embedded_folder(task)
    raise _nowhere(task, root)


def _nowhere(task: str, root: Path | None) -> DataError:
    looked = "" if root is None else f" (looked in {root / task})"
    public = public_set(task)
    message = f"no pictures for task '{task}'{looked}"
    return DataError(
        message,
        reason="no-data" if public is None else "no-data-root-for-public-set",
        task=task,
        variable=DATA_VARIABLE,
    )


def _chosen_root(given: Path | None) -> Path | None:
    return given if given is not None else data_root()
