"""Opening the registry that a command works on, without loading any model."""

from __future__ import annotations

from pathlib import Path

from condu_cli.registry.repository import Registry


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
