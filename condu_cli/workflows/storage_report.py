"""What a registry costs on disk, beside the checkpoints that it replaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from condu_cli.registry.storage import TaskSizes, measure

if TYPE_CHECKING:
    from condu_cli.registry.repository import Registry

FLOAT_BYTES = 4
PAPER_TASKS = 11
MEBIBYTE = 2**20
PAPER_BYTES = {
    "unified delta": 570.86 * MEBIBYTE,
    "masks": 196.2 * MEBIBYTE,
    "individual fine-tuning": 6279.46 * MEBIBYTE,
}
"""ConDU (arXiv 2503.10705), storage of 11 tasks on ViT-B/16, full fine-tuning. The paper writes
MB; its figures are 4 bytes, and 11 bits, for each of 149.6 M parameters in units of 2**20."""


@dataclass(frozen=True)
class FileSize:
    """One file: its path below the registry, its bytes, and the category it is counted in."""

    path: str
    bytes: int
    category: str


@dataclass(frozen=True)
class StorageReport:
    """All figures in bytes.

    `base_bytes` is what full fine-tuning of the registry's towers would change of the base model,
    in float32, also where the registry trains LoRA factors; `parameters` counts what it trains.
    The base model is not copied into the registry, so `total_bytes` does not include it.
    `trained_bytes`: experts that wait to be committed; `run_bytes`: unfinished trainings.
    `individual_ft_bytes`: one full float32 checkpoint per task, the folder this replaces.
    """

    total_bytes: int
    base_bytes: int
    unified_bytes: int
    mask_bytes: int
    prototype_bytes: int
    history_bytes: int
    metadata_bytes: int
    trained_bytes: int
    run_bytes: int
    individual_ft_bytes: int
    parameters: int
    tasks: tuple[TaskSizes, ...]
    files: tuple[FileSize, ...]


def report(registry: Registry) -> StorageReport:
    """Measure a registry; the six categories add up to `total_bytes`."""
    sizes = measure(registry)
    base_bytes = registry.config.model_parameter_count * FLOAT_BYTES
    return StorageReport(
        total_bytes=sizes.total_bytes,
        base_bytes=base_bytes,
        unified_bytes=sizes.unified_bytes,
        mask_bytes=sizes.mask_bytes,
        prototype_bytes=sizes.prototype_bytes,
        history_bytes=sizes.history_bytes,
        metadata_bytes=sizes.metadata_bytes,
        trained_bytes=sizes.trained_bytes,
        run_bytes=sizes.run_bytes,
        individual_ft_bytes=base_bytes * len(sizes.tasks),
        parameters=registry.config.parameter_count,
        tasks=sizes.tasks,
        files=tuple(
            FileSize(str(path), sizes.file_bytes[path], category)
            for path, category in sorted(sizes.categories.items())
        ),
    )
