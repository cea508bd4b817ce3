"""The tasks that condu knows by name, and where it looks for their pictures.

`known_tasks.json` describes the public data sets; nothing here reads a picture.
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
"""Environment variable: the folder that holds the data sets."""
DEFAULT_TEMPLATES = ("a photo of a {}.",)
EMBEDDED_FACTS: dict[str, dict[str, Any]] = {
    "digits": {
        "title": "Handwritten digits (scikit-learn)",
        "classes": 10,
        "images": 1797,
        "licence": "CC BY 4.0",
    },
    "shapes": {
        "title": "Drawn shapes (generated)",
        "classes": 5,
        "images": 400,
        "licence": "Apache-2.0",
    },
}


@dataclass(frozen=True)
class PaperRecipe:
    """Peak learning rates for one task in the authors' release of ConDU."""

    lr_full: float
    lr_lora: float
    lr_lora_5shot: float


@dataclass(frozen=True)
class KnownSet:
    """A public data set. `bytes` is the approximate size of its download.

    `train_images` and `test_images` count the pictures that the task uses. `files` are paths in
    `folder`, which is in the data root; all of them are needed. `needs` says which files a user
    puts where; `{root}` stands for the data root.
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
        """Say which files a user puts where."""
        place = "DIR" if root is None else str(root)
        return "; ".join(text.replace("{root}", place) for text in self.needs)


@dataclass(frozen=True)
class KnownTask:
    """A known task; `classes` and `images` count those of the full data set."""

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
        """Whether its pictures are embedded in condu."""
        return self.public is None


@cache
def known_tasks() -> dict[str, KnownTask]:
    """Return the embedded tasks, the eleven of MTIL and Tiny ImageNet, by name."""
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
    """Return the public data set of that name, None if there is none."""
    known = known_tasks().get(task)
    return None if known is None else known.public


def data_root() -> Path | None:
    """Return the folder that `CONDU_DATA` names, None if it is not set."""
    value = os.environ.get(DATA_VARIABLE)
    return Path(value) if value else None


class State(str, Enum):
    """How much of a data set is in a data root."""

    THERE = "there"
    INCOMPLETE = "incomplete"
    NOT_THERE = "not there"


@dataclass(frozen=True)
class Place:
    """Where condu looks for a public data set; `missing` are the files not found there."""

    path: Path
    state: State
    missing: tuple[Path, ...]


def where(task: str, root: Path) -> Place:
    """Look for a public data set in a data root, in torchvision's layout.

    Only the existence of files is checked, not their content.

    Raises:
        KeyError: no public data set of that name.

    """
    public = known_tasks()[task].public
    if public is None:
        raise KeyError(task)
    folder = root / public.folder
    paths = [folder / name for name in public.files]
    missing = tuple(path for path in paths if not path.exists())
    # A folder with the task's name may be any folder of pictures.
    begun = len(missing) < len(paths) or (public.folder.lower() != task and folder.exists())
    state = State.THERE if not missing else State.INCOMPLETE if begun else State.NOT_THERE
    return Place(folder, state, missing)


def plain_folder(task: str, root: Path) -> Path | None:
    """Return `root/TASK` if it may hold pictures that are not a public set in its own layout.

    It must hold folders, or a data set written by Hugging Face's `save_to_disk`.
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
    """Return the task and data root of the public data set in this folder, if it is one."""
    folder = folder if folder.name else folder.absolute()  # `.` has no name
    for task in known_tasks().values():
        public = task.public
        if public is None or public.folder != folder.name:
            continue
        if where(task.name, folder.parent).state is State.THERE:
            return task.name, folder.parent
    return None
