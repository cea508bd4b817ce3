"""Which blobs must be there as files, and which sessions a collector has to keep.

A session is stored in one of three ways. HEAD, and whatever has no pack, has files of its own. A
packed session has a patch, from which and from its reference its files come back bit for bit. A
collected one has only its record.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from condu_cli.errors import IntegrityError
from condu_cli.registry.manifest import Pack, Session
from condu_cli.registry.names import shown_id

PATCH = "patch"


@dataclass(frozen=True)
class History:
    """Everything that decides which blobs are needed, read in one transaction.

    `sessions` are all there are, newest first; `undoable` are those that `rollback --undo` can
    bring back.
    """

    sessions: Sequence[Session]
    head: str | None
    packs: Mapping[str, Pack]
    collected: Mapping[str, str]
    tags: Mapping[str, str]
    undoable: frozenset[str]

    @property
    def live(self) -> list[Session]:
        """The sessions that are not collected, newest first."""
        return [session for session in self.sessions if session.id not in self.collected]

    def session(self, session_id: str) -> Session:
        """Return the session with this id; raise IntegrityError if there is none."""
        for session in self.sessions:
            if session.id == session_id:
                return session
        raise _missing(session_id)

    def line(self, session_id: str | None) -> list[str]:
        """Return an id and those of its ancestors, newest first."""
        parents = {session.id: session.parent for session in self.sessions}
        found = []
        while session_id is not None:
            if session_id not in parents:
                raise _missing(session_id)
            found.append(session_id)
            session_id = parents[session_id]
        return found

    def chain(self, session_id: str) -> list[str]:
        """Return an id and those of the sessions that its patches lead to, each once."""
        found: list[str] = []
        while session_id not in found:
            found.append(session_id)
            if session_id not in self.packs or session_id == self.head:
                break
            session_id = self.packs[session_id].reference
        return found

    def has_files(self, session: Session) -> bool:
        """Say whether the blobs of the session's experts must be there as files."""
        return session.id == self.head or session.id not in self.packs

    def blobs(self, session: Session) -> dict[str, str]:
        """Map the sha256 of each blob that must be a file for this session to its kind."""
        kinds = session.blob_kinds()
        if self.has_files(session):
            pack = self.packs.get(session.id)
        else:
            pack = self.packs[session.id]
            state = set(session.state_blobs())
            kinds = {sha256: kind for sha256, kind in kinds.items() if sha256 not in state}
            kinds |= {e.expert.prototypes: "prototypes" for e in session.entries}
        if pack is not None and pack.patch is not None:
            kinds |= {pack.patch: PATCH}
        return kinds

    def needed_blobs(self) -> dict[str, str]:
        """Map the sha256 of every blob that must be a file to its kind."""
        needed: dict[str, str] = {}
        for session in self.live:
            needed = self.blobs(session) | needed
        return needed

    def spare_blobs(self) -> set[str]:
        """Return the blobs of packed sessions that need no file: they come back from patches."""
        packed = (s for s in self.live if not self.has_files(s))
        return {sha256 for s in packed for sha256 in s.state_blobs()} - set(self.needed_blobs())

    def kept(self, keep: int | None, *, undo: bool = True) -> set[str]:
        """Return the ids of the sessions that a collector must leave.

        These are HEAD and those before it, `keep` of them in all if that is given; every tagged
        session; and with `undo` the same line of whatever `rollback --undo` can bring back.
        """
        ends = {self.head, *(self.undoable if undo else ())}
        kept = {session for end in ends for session in self.line(end)[:keep]}
        return (kept | set(self.tags.values())) - set(self.collected)


def _missing(session_id: str) -> IntegrityError:
    return IntegrityError(
        f"session {shown_id(session_id)} is referred to and not there",
        reason="session-missing",
        session=session_id,
    )


def broken_references(packs: Iterable[Pack], kept: set[str]) -> list[Pack]:
    """Return the packs of kept sessions whose reference is not kept."""
    return [pack for pack in packs if pack.session in kept and pack.reference not in kept]
