"""Cheap history: sessions with a successor are stored as patches on it, without files.

HEAD keeps its files, so prediction costs nothing more. A patch is tested before it counts: what it
restores must have the hashes of the files that it replaces. Files are removed only after the
database has recorded the patch, so a crash in between leaves files too many, never too few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.codecs.interface import Patching
from condu_cli.core.codecs.operations import same_code
from condu_cli.errors import ConduError, IntegrityError, InterruptedByUserError
from condu_cli.registry.leftovers import removed_on_failure
from condu_cli.registry.manifest import short_id
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.patch_walk import restored_states
from condu_cli.workflows.sessions.states import (
    check_state,
    has_files,
    is_intact,
    is_restorable,
    open_state,
    patch_of,
    patched_state,
    repair_files,
    write_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Set

    from condu_cli.registry.manifest import Session
    from condu_cli.registry.reachability import History
    from condu_cli.registry.repository import Registry


@dataclass(frozen=True)
class Packed:
    """The result of packing: the number of sessions, bytes of removed files and of new patches."""

    sessions: int = 0
    removed_bytes: int = 0
    patch_bytes: int = 0
    warnings: tuple[str, ...] = ()


def pack_session(registry: Registry, session: Session, newer: Session) -> int | None:
    """Write and record a session's patch on a newer one; return the patch's bytes.

    Returns None if the session keeps its files: no patch is made across codecs, by a codec without
    patches, or if it would not be smaller than the files. The caller holds the lock. No file is
    removed here.

    Raises:
        IntegrityError: one of the two is corrupt.

    """
    codec, newer_codec = (codec_for(registry.config, s) for s in (session, newer))
    if not same_code(codec, newer_codec):
        return None
    if has_files(registry, newer):
        check_state(registry, newer)  # a patch on corrupt files would restore nothing
    if set(session.state_blobs()) <= set(newer.state_blobs()):
        registry.record_pack(session, newer, None)
        return 0
    if not isinstance(codec, Patching):
        return None
    state = open_state(registry, session)
    newer_state = open_state(registry, newer)
    patch = patch_of(registry, codec, session, state, newer, newer_state)
    patched_state(codec, session, newer_state, patch)  # raises unless every hash is right
    own = set(session.state_blobs()) - set(newer.state_blobs())
    if sum(array.nbytes for array in patch.values()) >= sum(map(registry.blobs.size, own)):
        return None
    ref = registry.blobs.put(patch)
    registry.record_pack(session, newer, ref)
    return ref.size


def pack_parent(registry: Registry, session: Session, parent: Session | None) -> Packed:
    """After a commit, pack the parent session and remove the files that are no longer needed.

    No other session is read, however many there are. The commit stands whatever happens here, so a
    failure becomes a warning: the parent keeps its files, and `condu gc` tries again. The caller
    holds the lock.
    """
    if parent is None or not parent.entries:
        return Packed()
    try:
        with removed_on_failure(registry):
            packed = _pack_again(registry, parent, session)
            if packed.sessions == 0 or packed.warnings:
                return packed
            needless = set(parent.state_blobs()) - registry.needed_among(parent.state_blobs())
            return replace(packed, removed_bytes=sum(map(registry.blobs.remove, needless)))
    except (ConduError, MemoryError) as exc:
        why = str(exc) or "not enough memory"
        return Packed(warnings=(f"the session before this one keeps its files: {why}",))
    except KeyboardInterrupt:
        raise interrupted_after_commit(session) from None


def interrupted_after_commit(session: Session) -> InterruptedByUserError:
    """Return the error that says what Ctrl-C did not undo."""
    return InterruptedByUserError(
        f"interrupted, but session {short_id(session.id)} is committed and is HEAD",
        reason="interrupted-after-commit",
        session=session.id,
    )


def pack_history(
    registry: Registry, on_session: Callable[[Session], None] = lambda _: None
) -> Packed:
    """Pack every session that has a successor and no pack, newest first, but never HEAD.

    The caller holds the lock.
    """
    history = registry.history()
    successors = history.successors()
    packed: list[Session] = []
    warnings: list[str] = []
    patch_bytes = 0
    for session in history.live:
        newer = successors.get(session.id)
        # HEAD keeps its files in any case.
        stored = session.id == history.head or session.id in history.packs
        if newer is None or stored or not session.entries:
            continue
        on_session(session)
        done = _pack_again(registry, session, history.session(newer))
        packed += [session] * done.sessions
        patch_bytes += done.patch_bytes
        warnings += done.warnings
    removed = release_files(registry, tried={session.id for session in packed})
    return Packed(len(packed), removed, patch_bytes, tuple(warnings))


def _pack_again(registry: Registry, session: Session, newer: Session) -> Packed:
    """Pack one session, even if it is already packed; a failure becomes a warning.

    The patch is made again because its reference may have become corrupt while the session had
    files; if that fails, the session keeps them.
    """
    old = registry.pack(session)
    try:
        if old is not None:
            check_state(registry, session)  # if corrupt, its old patch is the better copy
            registry.record_files(session)
        size = pack_session(registry, session, newer)
    except (InvalidStateError, ConduError) as exc:  # corrupt, or no room for the patch
        return Packed(warnings=(f"session {short_id(session.id)} keeps its files: {exc}",))
    if old is not None and old.patch is not None and not registry.needed_among([old.patch]):
        registry.blobs.remove(old.patch)
    return Packed() if size is None else Packed(1, 0, size)


def release_files(registry: Registry, tried: Set[str] = frozenset()) -> int:
    """Remove the files of packed sessions that are no longer needed; return their bytes.

    A session that was HEAD for a while has files beside its patch. The patch's reference may have
    become corrupt since, so the patch is tested again unless it is in `tried`; if the test fails,
    the session keeps its files. The caller holds the lock.
    """
    history = registry.history()
    spare = {sha256 for sha256 in history.spare_blobs() if registry.blobs.exists(sha256)}
    doubtful = {
        session.id
        for session in history.live
        if not (session.id in tried or history.has_files(session))
        and not spare.isdisjoint(session.state_blobs())
    }
    kept: set[str] = set()
    for restored in restored_states(registry, history, doubtful):
        if isinstance(restored.found, IntegrityError):
            kept |= spare.intersection(restored.session.state_blobs())
            if has_files(registry, restored.session):
                registry.record_files(restored.session)
    return sum(map(registry.blobs.remove, spare - kept))


def drop_corrupt_patch(registry: Registry) -> None:
    """Forget the patch that HEAD has from before it was HEAD, if it is corrupt and HEAD is not.

    HEAD has files; packed again, it gets a new patch. The caller holds the lock.
    """
    head = registry.head()
    pack = None if head is None else registry.pack(head)
    if head is None or pack is None or pack.patch is None or is_intact(registry, [pack.patch]):
        return
    if is_intact(registry, head.state_blobs()):
        registry.record_files(head)


def release_session(registry: Registry, session: Session | None) -> int:
    """Do what `release_files` does for a single session: the one that HEAD has just left."""
    if session is None or registry.pack(session) is None:
        return 0
    state = session.state_blobs()
    spare = set(filter(registry.blobs.exists, set(state) - registry.needed_among(state)))
    if not spare:
        return 0
    if not is_restorable(registry, session, without=spare):
        if has_files(registry, session):
            registry.record_files(session)
        return 0
    return sum(map(registry.blobs.remove, spare))


def repack(registry: Registry, history: History, broken: Set[str], kept: Set[str]) -> None:
    """Pack sessions again whose patches' references are being removed.

    Each becomes a patch on a kept session if that is smaller than files, else it keeps files. The
    caller holds the lock.

    Raises:
        IntegrityError: one of them, or its current reference, is corrupt.

    """
    packed = {i for i in broken if not has_files(registry, history.session(i))}
    for restored in restored_states(registry, history, packed):
        write_files(registry, restored.session, restored.state())
    for session_id in broken - packed:
        repair_files(registry, history.session(session_id))
    successors = history.successors(kept)
    # Newest first, so that the reference of an older session is already stored again.
    for session in history.live:
        if session.id in broken:
            newer = successors.get(session.id)
            if newer is None or pack_session(registry, session, history.session(newer)) is None:
                registry.record_files(session)
