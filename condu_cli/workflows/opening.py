"""Opening the registry that a command works on, without loading any model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.errors import UsageError
from condu_cli.registry.repository import Registry

if TYPE_CHECKING:
    from pathlib import Path


def open_if_there(path: Path) -> Registry | None:
    """Open a registry, or answer None where one could be created.

    Raises:
        NoRegistryError: something else is at the path.

    """
    if path.is_dir() and not any(path.iterdir()):
        return None
    if not path.exists():
        return None
    return Registry.open(path)


def refuse_existing(path: Path) -> None:
    """Answer at once where `init` could not create a registry, before a model is loaded.

    Raises:
        UsageError: there is a registry already.
        NoRegistryError: something else is at the path.

    """
    if open_if_there(path) is not None:
        raise UsageError(
            f"there is a registry at {path} already",
            "Use it with condu learn, or name another folder with --registry",
        )
