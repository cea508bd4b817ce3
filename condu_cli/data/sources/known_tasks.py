"""The tasks that condu knows by name: what they are, and where their pictures are looked for.

The public data sets are described by `known_tasks.json`; nothing here reads a picture.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from condu_cli.data.sources.embedded import EMBEDDED_TASKS

DATA_VARIABLE = "CONDU_DATA"
"""Environment variable: the folder below which the data sets lie."""
DEFAULT_TEMPLATES = ("a photo of a {}.",)
EMBEDDED_FACTS: dict[str, dict[str, Any]] = {
    "digits": {
        "title": "Handwritten digits (scikit-learn)",
        "classes": 10,
        "images": 1797,
        "licence": "CC BY 4.0",
    },
    "shapes": {
        "title": "Drawn shapes (made on the spot)",
        "classes": 5,
        "images": 400,
        "licence": "Apache-2.0",
    },
}


@dataclass(frozen=True)
class PaperRecipe:
    """Peak learning rates of the authors' release of ConDU for one task."""

    lr_full: float
    lr_lora: float
    lr_lora_5shot: float


@dataclass(frozen=True)
class KnownSet:
    """A public data set. `bytes` is about the size of its download.

    `train_images` and `test_images` count the pictures that the task uses of it.
    `files` are below `folder`, which is below the data root; all of them are needed.
    `needs` says what a user puts where, `{root}` stands for the data root.
    """

    torchvision: str | None
    train_images: int
    test_images: int
    bytes: int
    url: str
    downloadable: bool
    split: str
    folder: str
    files: tuple[str, ...]
    needs: tuple[str, ...]
    class_names: tuple[str, ...] | None
    paper_recipe: PaperRecipe | None

    def what_to_put(self, root: Path | None) -> str:
        """Which files a user puts where, in words."""
        place = "DIR" if root is None else str(root)
        return "; ".join(text.replace("{root}", place) for text in self.needs)


@dataclass(frozen=True)
class KnownTask:
    """A task by name; `classes` and `images` count those of the full data set."""

    name: str
    title: str
    classes: int
    images: int
    licence: str
    templates: tuple[str, ...]
    public: KnownSet | None = None
    """Its public data set, None for a task whose pictures are embedded."""

    @property
    def embedded(self) -> bool:
        """Whether its pictures come with condu."""
        return self.public is None


@cache
def known_tasks() -> dict[str, KnownTask]:
    """The embedded tasks, the eleven of MTIL and Tiny ImageNet, by name."""
    document = json.loads((files("condu_cli.data.sources") / "known_tasks.json").read_text("utf-8"))
    embedded = [
        KnownTask(name=name, templates=DEFAULT_TEMPLATES, **EMBEDDED_FACTS[name])
        for name in EMBEDDED_TASKS
    ]
    public = [_public_task(item) for item in document["tasks"]]
    return {task.name: task for task in (*embedded, *public)}


def _public_task(item: dict[str, Any]) -> KnownTask:
    facts = ("name", "title", "classes", "images", "licence")
    return KnownTask(
        **{fact: item[fact] for fact in facts},
        templates=tuple(item["templates"]),
        public=_known_set(item),
    )


def _known_set(item: dict[str, Any]) -> KnownSet:
    facts = (
        "torchvision", "train_images", "test_images", "bytes", "url", "downloadable", "split",
        "folder",
    )  # fmt: skip
    names, recipe = item.get("class_names"), item["paper_recipe"]
    return KnownSet(
        **{fact: item[fact] for fact in facts},
        files=tuple(item["files"]),
        needs=tuple(item["needs"]),
        class_names=None if names is None else tuple(names),
        paper_recipe=None if recipe is None else PaperRecipe(**recipe),
    )


def public_set(task: str) -> KnownSet | None:
    """The public data set of that name, None where condu knows none."""
    known = known_tasks().get(task)
    return None if known is None else known.public


def data_root() -> Path | None:
    """The folder that `CONDU_DATA` names, if it is set."""
    value = os.environ.get(DATA_VARIABLE)
    return Path(value) if value else None


class State(str, Enum):
    """How much of a data set is below a data root."""

    THERE = "there"
    INCOMPLETE = "incomplete"
    NOT_THERE = "not there"


@dataclass(frozen=True)
class Place:
    """Where a public data set is looked for; `missing` are the files that it lacks there."""

    path: Path
    state: State
    missing: tuple[Path, ...]


def where(task: str, root: Path) -> Place:
    """Where a public data set is looked for below a data root: torchvision's own layout.

    Only whether the files are there is looked at, not what is in them.

    Raises:
        KeyError: no public data set of that name.

    """
    public = known_tasks()[task].public
    if public is None:
        raise KeyError(task)
    folder = root / public.folder
    paths = [folder / name for name in public.files]
    missing = tuple(path for path in paths if not path.exists())
    # A folder that is called like the task may be any folder of pictures.
    begun = len(missing) < len(paths) or (public.folder.lower() != task and folder.exists())
    state = State.THERE if not missing else State.INCOMPLETE if begun else State.NOT_THERE
    return Place(folder, state, missing)


def plain_folder(task: str, root: Path) -> Path | None:
    """`root/TASK` if it may hold pictures that are not a public set in its own layout.

    It holds folders, or what Hugging Face's `save_to_disk` wrote.
    """
    folder = root / task
    if not folder.is_dir() or not any(
        path.is_dir() or path.name == "state.json" for path in folder.iterdir()
    ):
        return None
    public = public_set(task)
    if public is None or public.folder.lower() != task:
        return folder
    own = any((folder / name).exists() for name in public.files)
    return None if own else folder


def known_set_at(folder: Path) -> tuple[str, Path] | None:
    """Which public data set is in this folder in its own layout: the task and the data root."""
    folder = folder if folder.name else folder.absolute()  # `.` has no name
    for task in known_tasks().values():
        public = task.public
        if public is None or public.folder != folder.name:
            continue
        if where(task.name, folder.parent).state is State.THERE:
            return task.name, folder.parent
    return None
