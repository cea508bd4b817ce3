"""Export a registry as one file, and import it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.backbone.weight_files import CHECKPOINT_SUFFIXES, is_adapter
from condu_cli.errors import UsageError
from condu_cli.registry.copies.archive import write_archive
from condu_cli.registry.copies.archive_format import ArchiveSummary, is_archive
from condu_cli.registry.copies.archive_import import read_archive

if TYPE_CHECKING:
    from pathlib import Path

    from condu_cli.registry.repository import Registry

__all__ = ["ArchiveSummary", "export_registry", "import_registry"]


def export_registry(registry: Registry, path: Path, *, overwrite: bool) -> ArchiveSummary:
    """Write a whole registry to one file, which reveals nothing about this machine.

    Raises:
        UsageError: the file already exists, or is not a valid place.
        IntegrityError: a blob is missing or corrupt; nothing was written.

    """
    return write_archive(registry, path, overwrite=overwrite)


def import_registry(path: Path, registry_path: Path, base: str | None = None) -> ArchiveSummary:
    """Create a registry from an archive; `base` names its base model on this machine.

    Raises:
        UsageError: `registry_path` is not free, `base` names no base model, or the file holds
            the weights of a single model.
        IntegrityError: the archive is corrupt; nothing was created.
        RegistryTooNewError: a newer condu wrote it.

    """
    _refuse_weights(path)
    return read_archive(path, registry_path, None if base is None else _whole_name(base))


def _refuse_weights(path: Path) -> None:
    """Tell a model's weights from a corrupt archive: they are imported in another way."""
    named = path.is_file() and path.suffix.lower() in CHECKPOINT_SUFFIXES and not is_archive(path)
    if named or is_adapter(path):
        raise UsageError(
            f"{path} holds the weights of one model, it is not the archive of a registry",
            reason="archive-is-checkpoint",
            path=path,
        )


def _whole_name(base: str) -> str:
    """Return the name for a registry, with an absolute path: it is used from any folder."""
    from condu_cli.backbone.base_models import canonical_base_id, split_base_id

    if base != "mini":
        split_base_id(base)
    return canonical_base_id(base)
