"""The tasks that condu knows by name: their prompt templates and where their pictures lie."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from condu_cli.data.embedded import EMBEDDED_TASKS, embedded_folder
from condu_cli.errors import DataError, UsageError

DATA_VARIABLE = "CONDU_DATA"
"""Environment variable: the folder that holds one folder of pictures per task."""
DEFAULT_TEMPLATES = ("a photo of a {}.",)
EMBEDDED_TITLES = {
    "digits": ("Handwritten digits (scikit-learn)", 10),
    "shapes": ("Drawn shapes (made on the spot)", 5),
}


@dataclass(frozen=True)
class KnownTask:
    """A task by name; `classes` counts them in the full public data set."""

    name: str
    title: str
    classes: int
    templates: tuple[str, ...]
    embedded: bool = False


@cache
def known_tasks() -> dict[str, KnownTask]:
    """The embedded tasks and the eleven of MTIL, by name."""
    document = json.loads((files("condu_cli.data") / "known_tasks.json").read_text("utf-8"))
    embedded = [
        KnownTask(name, *EMBEDDED_TITLES[name], DEFAULT_TEMPLATES, embedded=True)
        for name in EMBEDDED_TASKS
    ]
    public = [
        KnownTask(item["name"], item["title"], item["classes"], tuple(item["templates"]))
        for item in document["tasks"]
    ]
    return {task.name: task for task in (*embedded, *public)}


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


def data_root() -> Path | None:
    """The folder that `CONDU_DATA` names, if it is set."""
    value = os.environ.get(DATA_VARIABLE)
    return Path(value) if value else None


def locate_data(task: str, given: Path | None) -> Path:
    """Where a task's pictures lie: the folder given, `$CONDU_DATA/TASK`, or embedded data.

    Raises:
        DataError: none of them is there.

    """
    if given is not None:
        return given
    root = data_root()
    if root is not None and (root / task).is_dir():
        return root / task
    if task in EMBEDDED_TASKS:
        return embedded_folder(task)
    looked = f" (looked in {root / task})" if root is not None else ""
    raise DataError(
        f"no pictures for task '{task}'{looked}",
        f"Pass --data DIR, or put them in a folder {task} below ${DATA_VARIABLE}",
    )
