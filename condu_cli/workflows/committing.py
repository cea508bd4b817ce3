"""Unify a new expert's delta with everything learned before, and commit the session."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from condu_cli.core.layout import InvalidDeltaError, InvalidStateError
from condu_cli.errors import ConduError, UsageError
from condu_cli.registry.manifest import Expert, SessionDraft, TaskEntry, short_id
from condu_cli.workflows.workspace import codec_for, damaged_session, open_state

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from condu_cli.core.codec import Codec, EncodedState
    from condu_cli.registry.manifest import RegistryConfig, Session
    from condu_cli.registry.repository import Registry


LOCK_SECONDS = 3600.0
"""How long a finished expert waits for another writer: losing it would cost its training."""


@dataclass(frozen=True)
class Commit:
    """A committed session, the HEAD that it was built on, and what it took in seconds."""

    session: Session
    parent: Session | None
    unify_seconds: float
    commit_seconds: float


def refuse_known_task(head: Session | None, task: str) -> None:
    """Raise UsageError where the session holds the task already."""
    for entry in () if head is None else head.entries:
        if entry.name == task:
            session = short_id(entry.learned_in or "")
            raise UsageError(
                f"task '{task}' is learned already (session {session})",
                "Choose another name, or take it back first: condu rollback",
            )


def check_delta(config: RegistryConfig, delta: dict[str, NDArray[np.float32]]) -> None:
    """Refuse a delta that could not be unified, before anything is created or locked.

    Raises:
        ConduError: NaN, infinity or a diverged value, naming the parameter.

    """
    try:
        codec_for(config).check(delta)
    except InvalidDeltaError as exc:
        raise _unusable(exc) from exc


def _unusable(exc: InvalidDeltaError) -> ConduError:
    return ConduError(
        f"the trained expert cannot be unified: {exc}", "Lower the learning rate (--lr)"
    )


def unify_and_commit(
    registry: Registry,
    task: str,
    delta: dict[str, NDArray[np.float32]],
    describe_expert: Callable[[float], Expert],
    *,
    command: str,
) -> Commit:
    """Unify under the lock with whatever HEAD is by now, and make the result HEAD.

    An expert starts from the base model, not from HEAD, so it fits any HEAD without training
    again. `describe_expert` gets the seconds that unify took, for the training record.

    Raises:
        LockedError: another process is committing.
        UsageError: the task was learned by somebody else meanwhile.
        IntegrityError: the current session is damaged.

    """
    codec = codec_for(registry.config)
    with registry.lock(command, LOCK_SECONDS):
        head = registry.head()
        refuse_known_task(head, task)
        started = time.perf_counter()
        before = open_state(registry, codec, head)
        state = _unify(codec, head, before, delta)
        unified = time.perf_counter()
        expert = describe_expert(unified - started)
        drifts = codec.drifts(before, state)
        draft = _draft(registry, codec, head, state, drifts, task, expert)
        session = registry.commit(draft, parent=None if head is None else head.id, command=command)
        return Commit(session, head, unified - started, time.perf_counter() - unified)


def _unify(
    codec: Codec,
    head: Session | None,
    before: EncodedState,
    delta: dict[str, NDArray[np.float32]],
) -> EncodedState:
    try:
        return codec.encode(before, delta)
    except InvalidDeltaError as exc:
        raise _unusable(exc) from exc
    except InvalidStateError as exc:
        assert head is not None  # noqa: S101 - the empty state is always valid
        raise damaged_session(head, exc) from exc


def _draft(
    registry: Registry,
    codec: Codec,
    head: Session | None,
    state: EncodedState,
    drifts: list[float],
    task: str,
    expert: Expert,
) -> SessionDraft:
    """Write the new state's blobs and describe the session that they make up.

    `drifts` says how far each old expert moved (ConDU, arXiv 2503.10705, Theorem 1).
    """
    shared = [] if state.shared is None else [state.shared]
    refs = [ref.sha256 for ref in registry.blobs.put_all([*shared, *state.parts])]
    old = () if head is None else head.entries
    entries = []
    for position, (part, ref) in enumerate(zip(state.parts, refs[len(shared) :], strict=True)):
        before = old[position] if position < len(old) else None
        summary = codec.describe(part)
        entries.append(
            TaskEntry(
                name=before.name if before else task,
                expert=before.expert if before else expert,
                part=ref,
                learned_in=before.learned_in if before else None,
                rescaler=summary.rescaler,
                mask_density=summary.mask_density,
                l1_norm=summary.l1_norm,
                drift=drifts[position] if before else None,
            )
        )
    kept = refs[0] if shared else None
    return SessionDraft(kind="learn", task=task, shared=kept, entries=tuple(entries))
