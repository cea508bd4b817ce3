"""Compare two sessions task by task, and trace the history of one task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.codecs.interface import EncodedState
from condu_cli.core.codecs.operations import drifts, overlaps
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.states import corrupt_session, open_state, partners

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from condu_cli.registry.manifest import Session, TaskEntry
    from condu_cli.registry.repository import Registry


@dataclass(frozen=True)
class TaskDifference:
    """One expert in two sessions.

    `change` is added, removed, renamed, changed or same. `mask_overlap` is the share of the
    parameters owned in either session that are owned in both, None if the codec's experts own no
    parameters. `drift` is how far the expert moved, relative to its L1 norm before (ConDU, arXiv
    2503.10705, Theorem 1). Both are None if the task is in one session only.
    """

    task: str
    change: str
    before: str | None
    after: str | None
    mask_overlap: float | None
    drift: float | None


@dataclass(frozen=True)
class Difference:
    """The difference between two sessions; bytes count the blobs that each needs by itself."""

    before: str | None
    after: str | None
    tasks: tuple[TaskDifference, ...]
    before_bytes: int
    after_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class TaskMoment:
    """One task in one session of its history; `record` is the codec's record there."""

    session: str
    kind: str
    changed_by: str
    created_at: str
    drift: float | None
    record: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, the codec's record among the other keys, as in an entry."""
        figures = {name: value for name, value in vars(self).items() if name != "record"}
        return {**self.record, **figures}


def compare(registry: Registry, before: Session | None, after: Session | None) -> Difference:
    """Compare two sessions, None being the empty state.

    Raises:
        IntegrityError: one of them is corrupt.
        NotFoundError: one of them was collected.

    """
    for session in (before, after):
        if session is not None:
            registry.require_live(session)
    sizes = registry.blob_sizes()
    one, other = (set() if s is None else s.blobs() for s in (before, after))
    return Difference(
        before=None if before is None else before.id,
        after=None if after is None else after.id,
        tasks=_task_differences(registry, before, after),
        before_bytes=sum(sizes[sha256] for sha256 in one),
        after_bytes=sum(sizes[sha256] for sha256 in other),
        shared_bytes=sum(sizes[sha256] for sha256 in one & other),
    )


def task_history(sessions: list[Session], entry: TaskEntry) -> list[TaskMoment]:
    """Return the expert's moment in each of these sessions that has it, in order."""
    found = []
    for session in sessions:
        for other in session.entries:
            same = (other.learned_in, other.expert.prototypes)
            if same == (entry.learned_in, entry.expert.prototypes):
                found.append(
                    TaskMoment(
                        session.id,
                        session.kind,
                        session.task,
                        session.created_at,
                        other.drift,
                        other.record,
                    )
                )
    return found


def _task_differences(
    registry: Registry, before: Session | None, after: Session | None
) -> tuple[TaskDifference, ...]:
    if before is None or after is None:
        there = after if before is None else before
        return tuple(
            _one_sided(entry, added=before is None) for entry in (there.entries if there else ())
        )
    places = partners(before, after)
    moved = _moved(registry, before, after, places)
    found = []
    for entry, place in zip(before.entries, places, strict=True):
        if place is None:
            found.append(_one_sided(entry, added=False))
            continue
        overlap, drift = moved[place]
        name = after.entries[place].name
        same = entry.part == after.entries[place].part and before.shared == after.shared
        change = "renamed" if name != entry.name else ("same" if same else "changed")
        found.append(TaskDifference(name, change, entry.name, name, overlap, drift))
    known = set(places)
    new = [entry for place, entry in enumerate(after.entries) if place not in known]
    return (*found, *(_one_sided(entry, added=True) for entry in new))


def _one_sided(entry: TaskEntry, *, added: bool) -> TaskDifference:
    name = entry.name
    before, after = (None, name) if added else (name, None)
    return TaskDifference(name, "added" if added else "removed", before, after, None, None)


def _moved(
    registry: Registry, before: Session, after: Session, places: list[int | None]
) -> dict[int, tuple[float | None, float]]:
    """Map the index in `after` of each common expert to its mask overlap and drift."""
    one_codec, other_codec = (codec_for(registry.config, s) for s in (before, after))
    old, new = (
        open_state(registry, session)
        for codec, session in ((one_codec, before), (other_codec, after))
    )
    both = [(index, place) for index, place in enumerate(places) if place is not None]
    if not both:
        return {}
    one = EncodedState(old.shared, [old.parts[index] for index, _ in both])
    other = EncodedState(new.shared, [new.parts[place] for _, place in both])
    try:
        shares: Sequence[float | None] | None = overlaps(one_codec, one, other_codec, other)
        distances = drifts(one_codec, one, other_codec, other)
    except InvalidStateError as exc:
        raise corrupt_session(after, exc) from exc
    return {
        place: (overlap, drift)
        for (_, place), overlap, drift in zip(
            both, shares or [None] * len(both), distances, strict=True
        )
    }
