"""Opening the registry that a command works on, without loading any model."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from condu_cli.disk import nearest_existing
from condu_cli.errors import BaseModelError, ConduError, UsageError
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.repository import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from condu_cli.registry.manifest import RegistryConfig

FLOAT_BYTES = 4


def open_if_there(path: Path) -> Registry | None:
    """Open a registry, or answer None where one could be created.

    Raises:
        NoRegistryError: something else is at the path.
        ConduError: a folder could not be made there; better said before training than after.

    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        return Registry.open(path)
    _require_writable(path)
    return None


def join_or_create(path: Path, config: RegistryConfig, command: str) -> Registry:
    """Create a registry, or open the one that another process has created there meanwhile.

    Raises:
        BaseModelError: theirs belongs to another base model or method.

    """
    try:
        return Registry.create(path, config, command=command)
    except ConduError:
        if not RegistryPaths(path).database.exists():
            raise
    registry = Registry.open(path)
    require_same_kind(registry, config)
    return registry


def require_same_kind(registry: Registry, config: RegistryConfig) -> None:
    """Refuse a registry that another process has created meanwhile, and differently.

    Raises:
        BaseModelError: it belongs to another base model or method.

    """
    if registry.config.fingerprint() != config.fingerprint():
        raise BaseModelError(
            f"a registry of base model {registry.config.base.id} was created at {registry.path} "
            "meanwhile, with other options",
            reason="created-meanwhile",
            registry=registry.path,
        )


def require_space(path: Path, config: RegistryConfig) -> None:
    """Refuse to train what there is no room to keep, while that costs nothing.

    An expert is saved once by itself and once unified.

    Raises:
        ConduError: the disk has less.

    """
    needed, free = 2 * FLOAT_BYTES * config.parameter_count, free_bytes(path)
    if free < needed:
        raise ConduError(
            f"{path} has {free / 1e6:,.0f} MB left; to keep and commit an expert takes "
            f"{needed / 1e6:,.0f} MB",
            reason="disk-too-full",
            path=path,
            free=free,
            needed=needed,
        )


def free_bytes(path: Path) -> int:
    """What is left on the disk where a path is, or would be."""
    return shutil.disk_usage(nearest_existing(path)).free


def state_bytes(config: RegistryConfig, *, best: bool) -> int:
    """What an unfinished training takes while one state takes the place of another.

    A state holds the weights, AdamW's two moments, and with `best` the best weights so far.
    """
    return 2 * (4 if best else 3) * FLOAT_BYTES * config.parameter_count


def _require_writable(path: Path) -> None:
    parent = nearest_existing(path)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConduError(
            f"a registry cannot be created at {path}: {parent} is not a folder to write to",
            reason="registry-path-not-writable",
            path=path,
            parent=parent,
        )


def refuse_existing(path: Path) -> None:
    """Answer at once where `init` could not create a registry, before a model is loaded.

    Raises:
        UsageError: there is a registry already.
        NoRegistryError: something else is at the path.

    """
    if open_if_there(path) is not None:
        raise UsageError(
            f"there is a registry at {path} already", reason="registry-exists", path=path
        )
