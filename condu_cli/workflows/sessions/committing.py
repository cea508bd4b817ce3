"""Commit an expert: save it, unify it with all earlier ones, make the result HEAD.

If HEAD holds a beginning of the task, the expert replaces it: the others are unified as after
forgetting the beginning and then learning the task, in one session.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.codecs.operations import drifts
from condu_cli.errors import ConduError, InterruptedByUserError
from condu_cli.registry.leftovers import removed_on_failure
from condu_cli.registry.manifest import Expert, Session, TaskEntry
from condu_cli.registry.repository import require_head
from condu_cli.workflows.progress import Progress, ProgressCallback, silent
from condu_cli.workflows.sessions.coding import choice_of, codec_for
from condu_cli.workflows.sessions.current import beginning_of, refuse_known_task
from condu_cli.workflows.sessions.history_packing import interrupted_after_commit, pack_parent
from condu_cli.workflows.sessions.remaining import Remaining, all_but, all_of
from condu_cli.workflows.sessions.states import check_state, corrupt_session, open_state
from condu_cli.workflows.sessions.trained_experts import keep_expert, load_expert

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from condu_cli.core.codecs.interface import Codec, EncodedState
    from condu_cli.registry.blobs.kept_files import KeptFile
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.sessions.trained_experts import TrainedExpert

LOCK_SECONDS = 600.0
"""How long a trained expert waits for another writer before it is left for `learn --resume`."""


@dataclass(frozen=True, kw_only=True)
class CommitSeconds:
    """How long a commit took, in seconds.

    `keep_seconds` is the time to save the expert before the lock was taken, `pack_seconds` the
    time to store the previous session as a patch.
    """

    keep_seconds: float
    unify_seconds: float
    commit_seconds: float
    pack_seconds: float


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A committed session and the HEAD it was built on; warnings are about packing the latter."""

    session: Session
    parent: Session | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExpertCommit(Commit):
    """The commit of a new expert, and how long it took.

    `replaced`: the expert takes the place of the task's beginning.
    """

    seconds: CommitSeconds
    replaced: bool


def commit_expert(
    registry: Registry,
    trained: TrainedExpert,
    *,
    parent: str | None,
    command: str,
    on_kept: Callable[[], None] = lambda: None,
    on_progress: ProgressCallback = silent,
) -> ExpertCommit:
    """Save the expert, unify it with `parent` and make the result HEAD.

    `parent` is the id of HEAD when the training began, None for the empty state. `on_kept` is
    called when the expert is on disk.

    Raises:
        HeadMovedError: HEAD has moved since; the expert is kept for `learn --resume`.
        LockedError: another process holds the lock; the expert is kept.
        IntegrityError: the current session is corrupt; the expert is kept.

    """
    started = time.perf_counter()
    waiting = keep_expert(registry, trained)
    kept = time.perf_counter() - started
    try:
        on_kept()
        return _commit_waiting(
            registry, waiting, trained, parent, command, kept_seconds=kept, on_progress=on_progress
        )
    except ConduError as exc:
        if waiting.path.exists():  # else another process has committed it
            exc.add(kept_expert=trained.task)
        raise
    except KeyboardInterrupt:
        raise _interrupted(registry, waiting, trained) from None


def _interrupted(
    registry: Registry, waiting: KeptFile, trained: TrainedExpert
) -> InterruptedByUserError:
    """Build the right error: Ctrl-C may have come just before the commit, or just after it."""
    session = registry.session_of_run(trained.training["run"])
    if session is not None:
        registry.waiting.remove(waiting.path)
        return interrupted_after_commit(session)
    stopped = InterruptedByUserError(
        "interrupted while committing", reason="interrupted-while-committing"
    )
    if waiting.path.exists():
        stopped.add(kept_expert=trained.task)
    return stopped


def resume_expert(
    registry: Registry,
    waiting: KeptFile,
    *,
    command: str,
    trained: TrainedExpert | None = None,
    on_progress: ProgressCallback = silent,
) -> ExpertCommit | Session:
    """Commit a kept expert on the current HEAD, or return the session that already has it.

    `trained` is the result of `load_expert`, if the caller has it. An expert starts from the base
    model, not from HEAD, so it fits any HEAD.

    Raises:
        IntegrityError: the kept expert or the current session is corrupt.
        UsageError: HEAD already has the task.

    """
    trained = trained or load_expert(registry, waiting)
    with _lock(registry, command, on_progress):  # HEAD cannot move from here on
        known = registry.session_of_run(trained.training["run"])
        if known is not None:
            registry.waiting.remove(waiting.path)
            return known
        head = registry.head()
        parent = None if head is None else head.id
        return _commit_waiting(
            registry, waiting, trained, parent, command, kept_seconds=0.0, on_progress=on_progress
        )


def _commit_waiting(
    registry: Registry,
    waiting: KeptFile,
    trained: TrainedExpert,
    parent: str | None,
    command: str,
    *,
    kept_seconds: float,
    on_progress: ProgressCallback,
) -> ExpertCommit:
    with _lock(registry, command, on_progress), removed_on_failure(registry):
        head = registry.head()
        codec = codec_for(registry.config, head)
        require_head(None if head is None else head.id, parent, command)
        refuse_known_task(head, trained.task, trained.kind)
        check_state(registry, head)
        started = time.perf_counter()
        rest, state = _unify(registry, codec, head, trained)
        unified = time.perf_counter()
        expert = Expert(
            classes=trained.classes,
            templates=trained.templates,
            prototypes=registry.blobs.put(trained.prototypes.to_arrays()).sha256,
            training={**trained.training, "unify_seconds": round(unified - started, 3)},
            head=None if trained.head is None else registry.blobs.put(trained.head).sha256,
        )
        kept = moved_entries(codec, rest, state)
        session = session_of_state(
            registry, codec, state, kept, parent, kind=trained.kind, task=trained.task, new=expert
        )
        registry.commit(session, command=command, folder=trained.folder)
        committed = time.perf_counter()
        registry.waiting.remove(waiting.path)
        packed = pack_parent(registry, session, head)
        return ExpertCommit(
            session=session,
            parent=head,
            replaced=beginning_of(head, trained.task) is not None,
            seconds=CommitSeconds(
                keep_seconds=kept_seconds,
                unify_seconds=unified - started,
                commit_seconds=committed - unified,
                pack_seconds=time.perf_counter() - committed,
            ),
            warnings=packed.warnings,
        )


def _lock(
    registry: Registry, command: str, on_progress: ProgressCallback
) -> AbstractContextManager[None]:
    def on_wait(holder: str) -> None:
        on_progress(Progress("waiting", 0, 1, {"holder": holder}))

    return registry.lock(command, LOCK_SECONDS, on_wait)


def _unify(
    registry: Registry, codec: Codec, head: Session | None, trained: TrainedExpert
) -> tuple[Remaining, EncodedState]:
    """Return the experts that stay, and the state that the new one joins them in."""
    entries = () if head is None else head.entries
    before = open_state(registry, head)
    replaced = beginning_of(head, trained.task)
    try:
        if replaced is None:
            rest = all_of(entries, before)
        else:
            rest = all_but(codec, entries, before, entries.index(replaced))
        return rest, codec.encode(rest.after, trained.delta)
    except InvalidStateError as exc:
        assert head is not None  # noqa: S101 - the empty state is always valid
        raise corrupt_session(head, exc) from exc


def session_of_state(
    registry: Registry,
    codec: Codec,
    state: EncodedState,
    kept: Sequence[TaskEntry],
    parent: str | None,
    *,
    kind: str,
    task: str,
    new: Expert | None = None,
    note: Mapping[str, Any] | None = None,
) -> Session:
    """Write the blobs of a state in some codec, and return the session to commit.

    `kept`: the entries of the experts in the state, in order, which get their new parts and
    records; `parent`: the id of the previous session; `new`: the expert of `task`, if it is the
    last one of the state and has no entry yet.
    """
    shared = [] if state.shared is None else [state.shared]
    refs = [ref.sha256 for ref in registry.blobs.put_all([*shared, *state.parts])]
    parts = list(zip(refs[len(shared) :], codec.describe(state), strict=True))
    added = []
    if new is not None:
        part, record = parts.pop()
        added = [
            TaskEntry(name=task, expert=new, part=part, learned_in=None, record=record, drift=None)
        ]
    entries = [
        replace(entry, part=part, record=record)
        for entry, (part, record) in zip(kept, parts, strict=True)
    ]
    return Session.on(
        parent,
        kind,
        task,
        refs[0] if shared else None,
        (*entries, *added),
        note=note,
        codec=choice_of(registry.config, codec),
    )


def moved_entries(codec: Codec, rest: Remaining, after: EncodedState) -> list[TaskEntry]:
    """Return the entries of the experts that stay, with how far each moved to `after`.

    Source of the drift: ConDU (arXiv 2503.10705), Theorem 1.
    """
    moved = drifts(codec, rest.before, codec, after)
    return [replace(entry, drift=drift) for entry, drift in zip(rest.entries, moved, strict=True)]
