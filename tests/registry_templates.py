"""Registries that are made once per process, and copied for each test that wants one like it."""

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
    """Say where the templates of this process are; `tests/conftest.py` does."""
    _folder[:] = [folder]


def copy_of(path: Path, make: Callable[..., object], *tasks: str, **values: object) -> Registry:
    """A copy at `path` of the registry that `make(path, *tasks, **values)` makes.

    All copies hold the same sessions, with the same ids and times.
    """
    shutil.copytree(_template(make, *tasks, **values), path, dirs_exist_ok=True)
    return Registry.open(path)


@cache
def _template(make: Callable[..., object], *tasks: str, **values: object) -> Path:
    template = _folder[0] / str(next(_NUMBERS))
    make(template, *tasks, **values)
    return template
