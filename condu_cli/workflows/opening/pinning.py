"""A session's blobs, mapped at once and hashed in the background.

A mapped file stays readable after it is removed, so a pinned session can be read to its end
whatever a writer does. A mapping keeps no file open, so the number of tasks is not limited. No blob
is returned before its hash has been checked.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING

from condu_cli.errors import IntegrityError

if TYPE_CHECKING:
    from condu_cli.registry.blobs.store import BlobReader
    from condu_cli.registry.manifest import Session
    from condu_cli.registry.repository import Registry

ATTEMPTS = 5
"""How often HEAD may move while its blobs are being opened."""


class PinnedSession:
    """One session with all its blobs mapped; `blob` waits until the blob is verified."""

    def __init__(self, registry: Registry, session: Session) -> None:
        self.session = session
        self._readers = {s: registry.blobs.open(s) for s in sorted(session.blobs())}
        kinds = session.blob_kinds()
        # Prototypes route, then the shared part and one trigger answer, some with a head.
        of_use = ("prototypes", "shared", "part", "head")
        order = sorted(self._readers, key=lambda sha256: of_use.index(kinds[sha256]))
        self._hashes: dict[str, Future[None]] = {sha256: Future() for sha256 in order}
        work = [(self._readers[sha256], pending) for sha256, pending in self._hashes.items()]
        # A daemon thread: at exit, hashes that no one waits for are dropped.
        threading.Thread(target=_verify_all, args=(work,), name="condu-verify", daemon=True).start()
        weakref.finalize(self, _cancel, list(self._hashes.values()))
        self._sound: set[str] = set()

    def blob(self, sha256: str) -> BlobReader:
        """Return one of the session's blobs; raise IntegrityError if it is corrupt.

        A blob that the background thread has not reached is hashed at once.
        """
        reader = self._readers[sha256]
        if sha256 not in self._sound:
            if self._hashes[sha256].cancel():
                reader.verify()
            else:
                self._hashes[sha256].result()
            self._sound.add(sha256)
        return reader


def _cancel(pending: list[Future[None]]) -> None:
    """Cancel the pending hashes of a session that is no longer pinned."""
    for future in pending:
        future.cancel()


def _verify_all(work: list[tuple[BlobReader, Future[None]]]) -> None:
    for reader, pending in work:
        if pending.set_running_or_notify_cancel():
            try:
                reader.verify()
            except BaseException as exc:
                pending.set_exception(exc)
            else:
                pending.set_result(None)


def pin_head(registry: Registry) -> PinnedSession | None:
    """Pin HEAD; return None for the empty state.

    Raises:
        IntegrityError: a blob is missing or corrupt, although HEAD has not moved.

    """
    for attempt in range(ATTEMPTS):
        head = registry.head()
        if head is None:
            return None
        try:
            return PinnedSession(registry, head)
        except IntegrityError:
            # A writer may have moved HEAD and packed this session since it was read.
            now = registry.head()
            if attempt == ATTEMPTS - 1 or (now is not None and now.id == head.id):
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")
