"""A registry as one file, to pass it on, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.registry.copies.archive import write_archive
from condu_cli.registry.copies.archive_format import ArchiveSummary
from condu_cli.registry.copies.archive_import import read_archive

if TYPE_CHECKING:
    from pathlib import Path

    from condu_cli.registry.repository import Registry

__all__ = ["ArchiveSummary", "export_registry", "import_registry"]


def export_registry(registry: Registry, path: Path, *, overwrite: bool) -> ArchiveSummary:
    """Write a whole registry to one file; nothing in it tells where it comes from.

    Raises:
        UsageError: the file is there already, or cannot be an archive.
        IntegrityError: a blob is missing or corrupt; nothing was written.

    """
    return write_archive(registry, path, overwrite=overwrite)


def import_registry(path: Path, registry_path: Path, base: str | None = None) -> ArchiveSummary:
    """Make a new registry of an archive; `base` says where its base model is on this machine.

    Raises:
        UsageError: there is something at `registry_path`, or `base` names no base model.
        IntegrityError: the archive is not what `condu export` writes; nothing was made.
        RegistryTooNewError: a newer condu wrote it.

    """
    return read_archive(path, registry_path, None if base is None else _whole_name(base))


def _whole_name(base: str) -> str:
    """The name as a registry remembers it: the registry is used from other folders than this."""
    from condu_cli.backbone.base_models import canonical_base_id, split_base_id

    if base != "mini":
        split_base_id(base)
    return canonical_base_id(base)
