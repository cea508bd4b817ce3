"""Read the blobs that an expert was learned with: its prototypes, and a head beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.core.stored_heads import check_head
from condu_cli.errors import IntegrityError

if TYPE_CHECKING:
    from condu_cli.core.arrays.layout import Float32, Tensors
    from condu_cli.registry.manifest import TaskEntry


def prototypes_in(entry: TaskEntry, blob: Tensors) -> Prototypes:
    """Return the prototypes in a task's blob; raise IntegrityError if it holds none."""
    try:
        return Prototypes.from_arrays(blob)
    except InvalidStateError as exc:
        raise _corrupt(entry, "prototypes of task '{}' are", exc) from exc


def head_in(entry: TaskEntry, blob: Tensors) -> dict[str, Float32]:
    """Return the head in a task's blob; raise IntegrityError if it is none of its classes."""
    try:
        return check_head(blob, len(entry.expert.classes))
    except InvalidStateError as exc:
        raise _corrupt(entry, "head of task '{}' is", exc) from exc


def _corrupt(entry: TaskEntry, what: str, exc: Exception) -> IntegrityError:
    return IntegrityError(
        f"the {what.format(entry.name)} corrupt: {exc}", reason="session-damaged", task=entry.name
    )
