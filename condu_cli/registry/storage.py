"""What lies on disk, by what it is for; the figures are sizes of real files and add up."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.manifest import Session
from condu_cli.registry.names import is_sha256
from condu_cli.registry.repository import Registry

UNIFIED = "unified"
MASK = "mask"
PROTOTYPE = "prototype"
HISTORY = "history"
METADATA = "metadata"
TRAINED = "trained"
RUN = "run"


@dataclass(frozen=True)
class TaskSizes:
    """The bytes of one task of HEAD.

    Two tasks that share a blob both count it here; the registry's totals count it once.
    """

    task: str
    part_bytes: int
    prototype_bytes: int


@dataclass(frozen=True)
class StorageSizes:
    """The bytes of every file under the registry, each in exactly one category.

    unified, mask and prototype are what HEAD needs; history is what only other sessions or
    nobody needs (patches, and blobs half written, included); trained are experts that wait to be
    committed, runs are trainings that are not finished; metadata is all the rest. `categories`
    maps each file, relative to the registry, to the category it is counted in, `file_bytes` to
    its size.
    """

    unified_bytes: int
    mask_bytes: int
    prototype_bytes: int
    history_bytes: int
    metadata_bytes: int
    trained_bytes: int
    run_bytes: int
    total_bytes: int
    tasks: tuple[TaskSizes, ...]
    categories: Mapping[Path, str]
    file_bytes: Mapping[Path, int]


def measure(registry: Registry) -> StorageSizes:
    """Measure the registry's files as they are now."""
    # The database first: while it is read, it keeps files of its own beside it.
    head = registry.head()
    needed = {} if head is None else _needed(head)
    categories: dict[Path, str] = {}
    sizes: dict[Path, int] = {}
    for path, size in _files(registry.path):
        relative = path.relative_to(registry.path)
        categories[relative] = _category(registry.paths, path, needed)
        sizes[relative] = size

    def total(category: str) -> int:
        return sum(size for path, size in sizes.items() if categories[path] == category)

    return StorageSizes(
        unified_bytes=total(UNIFIED),
        mask_bytes=total(MASK),
        prototype_bytes=total(PROTOTYPE),
        history_bytes=total(HISTORY),
        metadata_bytes=total(METADATA),
        trained_bytes=total(TRAINED),
        run_bytes=total(RUN),
        total_bytes=sum(sizes.values()),
        tasks=_task_sizes(registry, head, sizes),
        categories=categories,
        file_bytes=sizes,
    )


def _needed(head: Session) -> dict[str, str]:
    """Map each blob that HEAD needs to its category; a blob of two kinds counts as the first."""
    needed = {entry.expert.prototypes: PROTOTYPE for entry in head.entries}
    needed |= {entry.part: MASK for entry in head.entries}
    return needed if head.shared is None else needed | {head.shared: UNIFIED}


def _category(paths: RegistryPaths, path: Path, needed: Mapping[str, str]) -> str:
    if paths.tmp in path.parents:
        return HISTORY
    if paths.trained in path.parents:
        return TRAINED
    if paths.runs in path.parents:
        return RUN
    # A file is a blob by its place and its name, so that nothing else passes for one.
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
        TaskSizes(entry.name, size(entry.part), size(entry.expert.prototypes)) for entry in entries
    )


def _files(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield every file under `root` with its size; links are not followed."""
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = Path(folder, name)
            try:
                yield path, path.lstat().st_size
            except FileNotFoundError:  # a writer finished with it since the listing
                continue
