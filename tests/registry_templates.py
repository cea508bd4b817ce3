"""Registries that are created once per process, and copied for each test that needs one."""

from __future__ import annotations

import shutil
from functools import cache
from itertools import count
from typing import TYPE_CHECKING

from condu_cli.registry.repository import Registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NUMBERS = count()
_folder: list[Path] = []


def keep_in(folder: Path) -> None:
    """Set the folder of this process's templates; called by `tests/conftest.py`."""
    _folder[:] = [folder]


def copy_of(path: Path, make: Callable[..., object], *tasks: str, **values: object) -> Registry:
    """Copy the registry that `make(path, *tasks, **values)` creates to `path`.

    All copies hold the same sessions, with the same ids and times.
    """
    shutil.copytree(_template(make, *tasks, **values), path, dirs_exist_ok=True)
    return Registry.open(path)


@cache
def _template(make: Callable[..., object], *tasks: str, **values: object) -> Path:
    template = _folder[0] / str(next(_NUMBERS))
    make(template, *tasks, **values)
    return template
