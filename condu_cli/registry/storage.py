"""What is on disk, by purpose, compared with the checkpoints that it replaces.

The figures are sizes of real files and add up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from condu_cli.registry.files.listing import files_below
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.manifest import Session
from condu_cli.registry.names import is_sha256
from condu_cli.registry.repository import Registry

FLOAT_BYTES = 4
UNIFIED = "unified"
MASK = "mask"
PROTOTYPE = "prototype"
HEAD = "head"
HISTORY = "history"
METADATA = "metadata"
TRAINED = "trained"
RUN = "run"
_CATEGORIES = {"shared": UNIFIED, "part": MASK, "prototypes": PROTOTYPE, "head": HEAD}
"""By the kind of a blob that HEAD needs."""


@dataclass(frozen=True)
class TaskSizes:
    """The bytes of one task of HEAD.

    A blob shared by two tasks counts for both here, and once in the registry's totals.
    """

    task: str
    part_bytes: int
    prototype_bytes: int
    head_bytes: int


@dataclass(frozen=True)
class FileSize:
    """One file: its path below the registry, its bytes, and its category."""

    path: str
    bytes: int
    category: str


@dataclass(frozen=True)
class StorageReport:
    """All figures in bytes; every file under the registry is counted in exactly one category.

    unified, mask, prototype and head are what HEAD needs; history is what only other sessions need,
    or nothing does (including patches and drafts of blobs); trained are experts that are not
    committed yet, run are unfinished trainings; metadata is everything else.
    `base_bytes` is what full fine-tuning of the registry's towers would change of the base model,
    in float32, even if it trains LoRA factors; `parameters` counts what it trains.
    The base model is not copied into the registry, so `total_bytes` does not include it.
    `individual_ft_bytes`: one full float32 checkpoint per task, which the registry replaces.
    """

    total_bytes: int
    base_bytes: int
    unified_bytes: int
    mask_bytes: int
    prototype_bytes: int
    head_bytes: int
    history_bytes: int
    metadata_bytes: int
    trained_bytes: int
    run_bytes: int
    individual_ft_bytes: int
    parameters: int
    tasks: tuple[TaskSizes, ...]
    files: tuple[FileSize, ...]


def measure(registry: Registry) -> StorageReport:
    """Measure the registry's current files."""
    # The database first: while it is read, SQLite keeps files beside it.
    head = registry.head()
    needed = {} if head is None else _needed(head)
    sizes = {path.relative_to(registry.path): size for path, size in files_below(registry.path)}
    files = tuple(
        FileSize(str(path), size, _category(registry.paths, registry.path / path, needed))
        for path, size in sorted(sizes.items())
    )

    def total(category: str) -> int:
        return sum(file.bytes for file in files if file.category == category)

    tasks = _task_sizes(registry, head, sizes)
    base_bytes = registry.config.model_parameter_count * FLOAT_BYTES
    return StorageReport(
        total_bytes=sum(sizes.values()),
        base_bytes=base_bytes,
        unified_bytes=total(UNIFIED),
        mask_bytes=total(MASK),
        prototype_bytes=total(PROTOTYPE),
        head_bytes=total(HEAD),
        history_bytes=total(HISTORY),
        metadata_bytes=total(METADATA),
        trained_bytes=total(TRAINED),
        run_bytes=total(RUN),
        individual_ft_bytes=base_bytes * len(tasks),
        parameters=registry.config.parameter_count,
        tasks=tasks,
        files=files,
    )


def _needed(head: Session) -> dict[str, str]:
    """Map each blob that HEAD needs to its category; a blob of two kinds counts as the first."""
    return {sha256: _CATEGORIES[kind] for sha256, kind in head.blob_kinds().items()}


def _category(paths: RegistryPaths, path: Path, needed: Mapping[str, str]) -> str:
    if paths.tmp in path.parents:
        return HISTORY
    if paths.trained in path.parents:
        return TRAINED
    if paths.runs in path.parents:
        return RUN
    # A blob is recognised by its place and name, so nothing else passes for one.
    if path.parent.parent == paths.blobs and is_sha256(path.name):
        return needed.get(path.name, HISTORY)
    return METADATA


def _task_sizes(
    registry: Registry, head: Session | None, sizes: Mapping[Path, int]
) -> tuple[TaskSizes, ...]:
    def size(sha256: str) -> int:
        return sizes.get(registry.blobs.path(sha256).relative_to(registry.path), 0)

    entries = () if head is None else head.entries
    return tuple(
        TaskSizes(
            entry.name,
            size(entry.part),
            size(entry.expert.prototypes),
            0 if entry.expert.head is None else size(entry.expert.head),
        )
        for entry in entries
    )
