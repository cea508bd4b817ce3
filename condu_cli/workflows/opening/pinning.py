"""A session's blobs, opened all at once and hashed beside other work.

A mapped file stays readable when it is removed, so that a pinned session can be read to its end
whatever a writer does meanwhile. Nothing of it is handed out before its bytes have been found to
be what was committed.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from condu_cli.errors import IntegrityError

if TYPE_CHECKING:
    from condu_cli.registry.blobs.store import BlobReader
    from condu_cli.registry.manifest import Session
    from condu_cli.registry.repository import Registry

ATTEMPTS = 5
"""How often HEAD may move while its blobs are being opened."""


class PinnedSession:
    """One session with all its blobs open; `blob` waits until the one asked for is verified."""

    def __init__(self, registry: Registry, session: Session) -> None:
        self.session = session
        self._readers = {s: registry.blobs.open(s) for s in sorted(session.blobs())}
        pool = ThreadPoolExecutor(1, thread_name_prefix="condu-verify")
        # The order of use: prototypes route, then the shared part and one trigger answer.
        kinds = session.blob_kinds()
        order = sorted(
            self._readers, key=lambda s: ("prototypes", "shared", "part").index(kinds[s])
        )
        self._verified: dict[str, Future[None]] = {
            sha256: pool.submit(self._readers[sha256].verify) for sha256 in order
        }
        pool.shutdown(wait=False)

    def blob(self, sha256: str) -> BlobReader:
        """Return one of the session's blobs; raise IntegrityError if it is corrupt."""
        self._verified[sha256].result()
        return self._readers[sha256]


def pin_head(registry: Registry) -> PinnedSession | None:
    """Pin what is HEAD, None for the empty state.

    Raises:
        IntegrityError: a blob is missing or corrupt, and not because HEAD has moved.

    """
    for attempt in range(ATTEMPTS):
        head = registry.head()
        if head is None:
            return None
        try:
            return PinnedSession(registry, head)
        except IntegrityError:
            # A writer may have moved HEAD and stored this session as a patch since it was read.
            now = registry.head()
            if attempt == ATTEMPTS - 1 or (now is not None and now.id == head.id):
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")
