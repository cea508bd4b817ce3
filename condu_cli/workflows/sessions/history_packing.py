"""Cheap history: a session that has a successor is stored as a patch on it, its files removed.

The newest session keeps its files, so that predicting costs nothing more. A patch is tried before
it counts: what it gives back must have the hashes of the files that it replaces. Files go only
after the database says so; a crash in between leaves files too many, never too few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.errors import ConduError
from condu_cli.registry.leftovers import taken_back_on_failure
from condu_cli.registry.manifest import short_id
from condu_cli.workflows.sessions.states import (
    check_state,
    codec_for,
    comes_back,
    has_files,
    open_state,
    patch_of,
    patched_state,
    restore_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Set

    from condu_cli.core.codecs.codec import Codec
    from condu_cli.registry.manifest import Pack, Session
    from condu_cli.registry.reachability import History
    from condu_cli.registry.repository import Registry


@dataclass(frozen=True)
class Packed:
    """What packing did: how many sessions, the bytes of files removed and of patches written."""

    sessions: int = 0
    removed_bytes: int = 0
    patch_bytes: int = 0
    warnings: tuple[str, ...] = ()


def pack_session(registry: Registry, codec: Codec, session: Session, newer: Session) -> int | None:
    """Write a session's patch on a newer one and note it; answer with the patch's bytes.

    None where a patch would not be smaller than the files: the session keeps them. The caller
    holds the lock. No file is removed here.

    Raises:
        IntegrityError: one of the two is corrupt.

    """
    if has_files(registry, newer):
        check_state(registry, newer)  # or the patch would be on something that does not exist
    if set(session.state_blobs()) <= set(newer.state_blobs()):
        registry.record_pack(session, newer, None)
        return 0
    state = open_state(registry, codec, session)
    newer_state = open_state(registry, codec, newer)
    patch = patch_of(registry, codec, session, state, newer, newer_state)
    patched_state(codec, session, newer_state, patch)  # raises unless every hash is right
    own = set(session.state_blobs()) - set(newer.state_blobs())
    if sum(array.nbytes for array in patch.values()) >= sum(map(registry.blobs.size, own)):
        return None
    ref = registry.blobs.put(patch)
    registry.record_pack(session, newer, ref)
    return ref.size


def pack_parent(registry: Registry, session: Session) -> Packed:
    """After a commit: pack the session before this one, and remove the files nobody needs.

    The commit stands whatever happens here, so that a failure becomes a warning: the older
    session keeps its files, and `condu gc` tries again. The caller holds the lock.
    """
    try:
        with taken_back_on_failure(registry):
            return pack_history(registry, [session.parent] if session.parent else [])
    except ConduError as exc:
        return Packed(warnings=(f"the session before this one keeps its files: {exc.message}",))


def pack_history(
    registry: Registry,
    only: Iterable[str] | None = None,
    on_session: Callable[[Session], None] = lambda _: None,
) -> Packed:
    """Pack every session, or `only` some, that has a successor, newest first; but never HEAD.

    The caller holds the lock.
    """
    codec = codec_for(registry.config)
    history = registry.history()
    wanted = None if only is None else set(only)
    patch_bytes, packed, warnings = 0, set(), []
    # Nothing to gain: HEAD has files in any case. The patch of a session that is asked for is
    # made anew, since what it is on may have been damaged while the session had files.
    stored = {history.head, *(history.packs if wanted is None else ())}
    for session in history.live:
        newer = successor(history, session)
        skip = wanted is not None and session.id not in wanted
        if skip or newer is None or session.id in stored or not session.entries:
            continue
        on_session(session)
        try:
            if session.id in history.packs:
                registry.record_files(session)  # which it keeps, should the new patch fail
            size = pack_session(registry, codec, session, newer)
        except (InvalidStateError, ConduError) as exc:  # damaged, or no room for the patch
            warnings.append(f"session {short_id(session.id)} keeps its files: {exc}")
            continue
        if size is not None:
            packed.add(session.id)
            patch_bytes += size
        _remove_old_patch(registry, history.packs.get(session.id))
    removed = release_files(registry, tried=packed)
    return Packed(len(packed), removed, patch_bytes, tuple(warnings))


def _remove_old_patch(registry: Registry, pack: Pack | None) -> None:
    if pack is not None and pack.patch not in (None, *registry.history().needed_blobs()):
        registry.blobs.remove(str(pack.patch))


def release_files(registry: Registry, tried: Set[str] = frozenset()) -> int:
    """Remove the files of packed sessions that are not needed; answer with their bytes.

    A session that was HEAD for a while has files beside its patch. What the patch is on may have
    become corrupt since it was made, so that it is tried again, unless it was `tried` just now; if
    it fails the session keeps its files. The caller holds the lock.
    """
    codec, history = codec_for(registry.config), registry.history()
    spare = {sha256 for sha256 in history.spare_blobs() if registry.blobs.exists(sha256)}
    kept: set[str] = set()
    for session in history.live:
        beside = spare.intersection(session.state_blobs())
        if session.id in tried or history.has_files(session) or not beside:
            continue
        if comes_back(registry, codec, session):
            continue
        kept |= beside
        if has_files(registry, session):
            registry.record_files(session)
    return sum(map(registry.blobs.remove, spare - kept))


def repack(registry: Registry, codec: Codec, session: Session, newer: Session | None) -> None:
    """Store a packed session anew, because the one that its patch is on is going.

    On `newer` where a patch is smaller than files; with files of its own otherwise. The caller
    holds the lock.
    """
    restore_files(registry, codec, session)
    if newer is None or pack_session(registry, codec, session, newer) is None:
        registry.record_files(session)


def successor(history: History, session: Session, kept: set[str] | None = None) -> Session | None:
    """The session to store another one as a patch on: its child, or the next kept one after it.

    On the way to HEAD if it is before HEAD, else the newest line that goes on from it.
    """
    lines = [history.line(history.head), *(history.line(s.id) for s in history.live)]
    alive = {s.id for s in history.live} if kept is None else kept
    for line in lines:
        if session.id in line:
            after = [i for i in line[: line.index(session.id)] if i in alive]
            if after:
                return history.session(after[-1])
    return None
