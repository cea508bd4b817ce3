"""A session's experts as its codec encoded them: from files, or restored from patches in memory.

Nothing here loads a model, so commands that only move or compare sessions start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.codecs.interface import EMPTY, EncodedState
from condu_cli.errors import IntegrityError
from condu_cli.registry.blobs.store import check_blob
from condu_cli.registry.manifest import short_id
from condu_cli.workflows.sessions.coding import codec_for, patching

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence, Set

    from numpy.typing import NDArray

    from condu_cli.core.arrays.layout import Tensors
    from condu_cli.core.codecs.interface import Codec
    from condu_cli.registry.manifest import Session
    from condu_cli.registry.repository import Registry

HEADER = "header/"
"""Prefix of the arrays of a patch blob that hold the headers of the session's files, in order."""


class FiledState(NamedTuple):
    """A session's state, and the headers of its files in the order of `Session.state_blobs`."""

    state: EncodedState
    headers: list[bytes]


def open_state(registry: Registry, session: Session | None) -> EncodedState:
    """Return all experts of a session: memory-mapped files, or arrays restored from its patch.

    Restored arrays have been compared with the hashes of the session's files. Files are not
    hashed here; see `check_state`.

    Raises:
        IntegrityError: a blob is missing or corrupt, or the session was collected.

    """
    if session is None or not session.entries:
        return EMPTY
    if has_files(registry, session):
        try:
            return state_from_files(registry, session).state
        except IntegrityError:
            if has_files(registry, session):
                raise
            # A writer has stored the session as a patch in the meantime.
    return _restored(registry, session).state


def has_files(registry: Registry, session: Session) -> bool:
    """Whether all blobs of a session's experts exist as files."""
    return all(registry.blobs.exists(sha256) for sha256 in session.state_blobs())


def state_of(session: Session, tensors: Sequence[Tensors]) -> EncodedState:
    """Return the state whose blobs, in the order of `Session.state_blobs`, hold these tensors."""
    if session.shared is None:
        return EncodedState(None, list(tensors))
    return EncodedState(tensors[0], list(tensors[1:]))


def tensors_of(state: EncodedState) -> list[Tensors]:
    """Return a state's tensors, in the order of `Session.state_blobs`."""
    return [*([] if state.shared is None else [state.shared]), *state.parts]


def check_state(registry: Registry, session: Session | None) -> None:
    """Hash the files of a session's experts before something is built on them.

    Raises:
        IntegrityError: naming the blob that is missing or corrupt.

    """
    for sha256 in () if session is None else session.state_blobs():
        registry.blobs.verify(sha256)


def restore_files(registry: Registry, session: Session) -> None:
    """Restore the files of a packed session, bit for bit; the caller holds the lock.

    Raises:
        IntegrityError: they cannot be restored.

    """
    if not has_files(registry, session):
        write_files(registry, session, _restored(registry, session))


def repair_files(registry: Registry, session: Session) -> None:
    """Rewrite corrupt files from the session's patch; the caller holds the lock.

    Raises:
        IntegrityError: the patch does not restore them.

    """
    if not is_intact(registry, session.state_blobs()):
        write_files(registry, session, _restored(registry, session))


def write_files(registry: Registry, session: Session, found: FiledState) -> None:
    """Write those files of a session that are missing or corrupt; the caller holds the lock."""
    blobs = zip(session.state_blobs(), found.headers, tensors_of(found.state), strict=True)
    for sha256, header, tensors in blobs:
        if not is_intact(registry, [sha256]):
            registry.blobs.put_again(sha256, header, tensors)


def is_intact(registry: Registry, blobs: Iterable[str]) -> bool:
    """Whether all these blobs exist as files with the committed content; hashes them."""
    try:
        for sha256 in blobs:
            registry.blobs.verify(sha256)
    except IntegrityError:
        return False
    return True


def is_restorable(registry: Registry, session: Session, without: Set[str]) -> bool:
    """Whether a packed session's patch restores it without the files `without`."""
    try:
        _restored(registry, session, without)
    except IntegrityError:
        return False
    return True


def state_from_files(registry: Registry, session: Session) -> FiledState:
    """Open the files of a session's experts.

    Raises:
        IntegrityError: a blob is missing or corrupt.

    """
    readers = [registry.blobs.open(sha256) for sha256 in session.state_blobs()]
    return FiledState(state_of(session, readers), [reader.header for reader in readers])


def state_from_patch(
    registry: Registry,
    session: Session,
    patch: str | None,
    newer: Session,
    found: FiledState,
) -> FiledState:
    """Restore a session's state from its patch and the state of the patch's reference.

    Raises:
        IntegrityError: the patch is corrupt, or restores something other than was committed.

    """
    try:
        if patch is None:
            return _part_of(session, newer, found)
        codec = codec_for(registry.config, session)
        return patched_state(codec, session, found.state, registry.blobs.open(patch))
    except (InvalidStateError, KeyError) as exc:
        source = short_id(newer.id) if patch is None else f"its patch {patch}"
        raise IntegrityError(
            f"session {short_id(session.id)} cannot be restored from {source}: {exc}",
            reason="patch-damaged",
            session=session.id,
            patch=patch,
        ) from exc


def _part_of(session: Session, newer: Session, found: FiledState) -> FiledState:
    """Pick a session's blobs out of those of a newer one; KeyError if one is missing there."""
    places = {sha256: place for place, sha256 in enumerate(newer.state_blobs())}
    chosen = [places[sha256] for sha256 in session.state_blobs()]
    tensors = tensors_of(found.state)
    state = state_of(session, [tensors[i] for i in chosen])
    return FiledState(state, [found.headers[i] for i in chosen])


def circular_patches(session: Session) -> IntegrityError:
    """Build the error about a session whose patches lead to no session with files."""
    return IntegrityError(
        f"the patches of session {short_id(session.id)} form a cycle",
        reason="patches-in-a-circle",
        session=session.id,
    )


def patched_state(
    codec: Codec, session: Session, newer: EncodedState, patch: Tensors
) -> FiledState:
    """Restore a session's state from a newer one and its patch, and check its hashes.

    Raises:
        IntegrityError: it is not what was committed.

    """
    headers = [np.asarray(patch[n]).tobytes() for n in _header_names(len(session.state_blobs()))]
    arrays = {name: patch[name] for name in patch if not name.startswith(HEADER)}
    state = patching(codec).restore(newer, arrays)
    tensors = tensors_of(state)
    if len(tensors) != len(headers):
        raise InvalidStateError("parts", f"are {len(tensors)} with the shared one")
    for sha256, header, restored in zip(session.state_blobs(), headers, tensors, strict=True):
        check_blob(sha256, header, restored)
    return FiledState(state, headers)


def patch_of(
    registry: Registry,
    codec: Codec,
    session: Session,
    state: EncodedState,
    newer: Session,
    newer_state: EncodedState,
) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a patch blob: the codec's difference, and the headers of the files."""
    patch: dict[str, NDArray[np.generic]] = dict(
        patching(codec).difference(newer_state, state, partners(session, newer))
    )
    for name, sha256 in zip(
        _header_names(len(session.state_blobs())), session.state_blobs(), strict=True
    ):
        header = registry.blobs.open(sha256).header
        patch[name] = np.frombuffer(header, np.uint8)
    return patch


def partners(session: Session, other: Session) -> list[int | None]:
    """Return, for each task of a session, the place of its expert in another one, if any."""
    places: Mapping[tuple[str | None, str], int] = {
        (e.learned_in, e.expert.prototypes): place for place, e in enumerate(other.entries)
    }
    return [places.get((e.learned_in, e.expert.prototypes)) for e in session.entries]


def corrupt_session(session: Session, exc: Exception) -> IntegrityError:
    """Build the error about a session whose blobs have the wrong content."""
    return IntegrityError(
        f"session {short_id(session.id)} is corrupt: {exc}",
        reason="session-damaged",
        session=session.id,
    )


def _header_names(count: int) -> list[str]:
    return [f"{HEADER}{place}" for place in range(count)]


def _restored(registry: Registry, session: Session, without: Set[str] = frozenset()) -> FiledState:
    """Follow the patches to a session with files, then restore back, one session at a time.

    Files in `without` do not count: they are about to be removed.
    """
    chain: list[tuple[Session, str | None]] = []
    seen, at, pack = {session.id}, session, registry.pack(session)
    while pack is not None:
        chain.append((at, pack.patch))
        at = registry.session(pack.reference)
        if at.id in seen:
            raise circular_patches(session)
        seen.add(at.id)
        stays = without.isdisjoint(at.state_blobs()) and has_files(registry, at)
        pack = None if stays else registry.pack(at)
    try:
        found = state_from_files(registry, at)
    except IntegrityError:
        if has_files(registry, at) or registry.pack(at) is None:
            raise
        # A writer has stored that session as a patch in the meantime.
        return _restored(registry, session, without)
    for older, patch in reversed(chain):
        found = state_from_patch(registry, older, patch, at, found)
        at = older
    return found
