"""Open or create the registry that a command works on, without loading a model."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from condu_cli.disk import nearest_existing
from condu_cli.errors import BaseModelError, ConduError, UsageError
from condu_cli.registry.files.new_folders import is_free, refuse_inside_registry
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.repository import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from condu_cli.registry.manifest import RegistryConfig

FLOAT_BYTES = 4


def open_if_there(path: Path) -> Registry | None:
    """Open a registry, or return None if one could be created there.

    Raises:
        NoRegistryError: something else is at the path.
        ConduError: a folder could not be created there; better to fail before training than after.

    """
    if path.exists() and not is_free(path):
        return Registry.open(path)
    refuse_inside_registry(path)
    _require_writable(path)
    return None


def join_or_create(path: Path, config: RegistryConfig, command: str) -> Registry:
    """Create a registry, or open one that another process has just created there.

    Raises:
        BaseModelError: that registry has another base model or method.

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
    """Refuse a registry that another process created with another configuration.

    Raises:
        BaseModelError: it has another base model or method.

    """
    if registry.config.fingerprint() != config.fingerprint():
        raise BaseModelError(
            f"another process created a registry with other options at {registry.path} (base model "
            f"{registry.config.base.id})",
            reason="created-meanwhile",
            registry=registry.path,
        )


def require_room(path: Path, config: RegistryConfig) -> None:
    """Refuse to train or to import an expert that could not be kept, before any work is done.

    Raises:
        ConduError: the registry cannot be written to, or there is not enough space.

    """
    inside = RegistryPaths(path).tmp
    folder = inside if inside.is_dir() else nearest_existing(path)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConduError(
            f"cannot write to {folder}: {error.strerror or error}",
            reason="registry-not-writable",
            path=path,
        ) from error
    _require_space(path, config)


def _require_space(path: Path, config: RegistryConfig) -> None:
    """Refuse what the disk has no space for: an expert by itself until its commit, and unified."""
    needed, free = 2 * FLOAT_BYTES * config.parameter_count, free_bytes(path)
    if free < needed:
        raise ConduError(
            f"{path} has {free / 1e6:,.0f} MB left; saving and committing an expert takes "
            f"{needed / 1e6:,.0f} MB",
            reason="disk-too-full",
            path=path,
            free=free,
            needed=needed,
        )


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of a path, which need not exist."""
    return shutil.disk_usage(nearest_existing(path)).free


def state_bytes(config: RegistryConfig, *, best: bool) -> int:
    """Return the bytes that an unfinished training needs while one state replaces another.

    A state holds the weights, AdamW's two moments, and with `best` the best weights so far.
    """
    return 2 * (4 if best else 3) * FLOAT_BYTES * config.parameter_count


def _require_writable(path: Path) -> None:
    parent = nearest_existing(path)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConduError(
            f"cannot create a registry at {path}: {parent} is not a writable folder",
            reason="registry-path-not-writable",
            path=path,
            parent=parent,
        )


def refuse_existing(path: Path) -> None:
    """Fail early if `init` could not create a registry there, before a model is loaded.

    Raises:
        UsageError: there is already a registry.
        NoRegistryError: something else is at the path.

    """
    if open_if_there(path) is not None:
        raise UsageError(
            f"there is already a registry at {path}", reason="registry-exists", path=path
        )
