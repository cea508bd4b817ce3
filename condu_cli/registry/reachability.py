"""Which blobs must be files, and which sessions gc must keep.

A session is stored in one of three ways. HEAD, and any session without a pack, has its own files.
A packed session has a patch: the patch and its reference restore its files bit for bit. A
collected session has only its record.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

from condu_cli.errors import IntegrityError
from condu_cli.registry.manifest import Pack, Session
from condu_cli.registry.names import shown_id

PATCH = "patch"


@dataclass(frozen=True)
class History:
    """Everything that decides which blobs are needed, read in one transaction.

    `sessions` are all that were ever committed, newest first; `undoable` are those that
    `rollback --undo` can restore.
    """

    sessions: Sequence[Session]
    head: str | None
    packs: Mapping[str, Pack]
    collected: Mapping[str, str]
    tags: Mapping[str, str]
    undoable: frozenset[str]

    @cached_property
    def live(self) -> list[Session]:
        """The sessions that are not collected, newest first."""
        return [session for session in self.sessions if session.id not in self.collected]

    @cached_property
    def _by_id(self) -> dict[str, Session]:
        return {session.id: session for session in self.sessions}

    def session(self, session_id: str) -> Session:
        """Return the session with this id; raise IntegrityError if it is missing."""
        try:
            return self._by_id[session_id]
        except KeyError:
            raise _missing(session_id) from None

    def line(self, session_id: str | None) -> list[str]:
        """Return an id and its ancestors' ids, newest first."""
        return list(self._upwards(session_id))

    def _upwards(self, session_id: str | None) -> Iterator[str]:
        while session_id is not None:
            yield session_id
            session_id = self.session(session_id).parent

    def has_files(self, session: Session) -> bool:
        """Return whether the blobs of the session's experts must be files."""
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
            kinds |= session.expert_blobs()
        if pack is not None and pack.patch is not None:
            kinds |= {pack.patch: PATCH}
        return kinds

    @cached_property
    def _needed(self) -> dict[str, str]:
        needed: dict[str, str] = {}
        for session in self.live:
            for sha256, kind in self.blobs(session).items():
                needed.setdefault(sha256, kind)
        return needed

    def needed_blobs(self) -> Mapping[str, str]:
        """Map the sha256 of every blob that must be a file to its kind."""
        return self._needed

    def spare_blobs(self) -> set[str]:
        """Return the blobs that need no file, because patches restore them."""
        packed = (s for s in self.live if not self.has_files(s))
        return {sha256 for s in packed for sha256 in s.state_blobs()} - self._needed.keys()

    def blobs_behind(self, session: Session) -> set[str]:
        """Return the blobs that a session depends on: its own, and those along its patches.

        Patches must not form a cycle, see `circular_packs`.
        """
        found = set(self.blobs(session))
        while not self.has_files(session):
            session = self.session(self.packs[session.id].reference)
            found |= self._read_for(session)
        return found

    def affected_by(self, bad: AbstractSet[str]) -> dict[str, frozenset[str]]:
        """Map each live session to the bad blobs that it depends on.

        HEAD may still have the patch from before it was HEAD; it has files, so it needs no patch.
        """
        state: dict[str, frozenset[str]] = {}  # of its experts alone
        for session in self.live:
            chain = []
            at = session
            while at.id not in state:
                chain.append(at)
                if self.has_files(at):
                    break
                at = self.session(self.packs[at.id].reference)
            inherited = state.get(at.id, frozenset())
            for step in reversed(chain):
                inherited |= bad & self._read_for(step) if bad else frozenset()
                state[step.id] = inherited
        return {s.id: state[s.id] | (bad & self._own(s)) for s in self.live}

    def _own(self, session: Session) -> set[str]:
        """Return the blobs that a session cannot do without, beside those that restore it."""
        kinds = self.blobs(session)
        stale = self.has_files(session)
        return {sha256 for sha256, kind in kinds.items() if not (stale and kind == PATCH)}

    def _read_for(self, session: Session) -> set[str]:
        """Return the blobs of a session's state, from which older ones are restored."""
        if self.has_files(session):
            return set(session.state_blobs())
        patch = self.packs[session.id].patch
        return set() if patch is None else {patch}

    def kept(self, keep: int | None, *, undo: bool = True) -> set[str]:
        """Return the ids of the sessions that gc must keep.

        These are HEAD and its ancestors, at most `keep` sessions in all; every tagged session; and
        with `undo`, the same for each session that `rollback --undo` can restore.
        """
        left: dict[str, float] = {}  # for each session, how many to keep from there on
        ends = {self.head, *(self.undoable if undo else ())}
        # Oldest first: most newer lines end where an older one has been.
        for end in sorted(ends - {None}, key=self._age, reverse=True):
            wanted = float("inf") if keep is None else float(keep)
            for session_id in self._upwards(end):
                if wanted <= left.get(session_id, 0):
                    break
                left[session_id] = wanted
                wanted -= 1
        return (left.keys() | set(self.tags.values())) - self.collected.keys()

    @cached_property
    def _places(self) -> dict[str, int]:
        return {session.id: place for place, session in enumerate(self.sessions)}

    def _age(self, session_id: str | None) -> int:
        return self._places.get(str(session_id), 0)

    def successors(self, kept: AbstractSet[str] | None = None) -> dict[str, str]:
        """Map each session to the best reference for its patch, if there is one.

        That is its child, or the next session after it in `kept`: on the way to HEAD for an
        ancestor of HEAD, else on the newest line through it. By default all live ones are kept.
        """
        alive = {s.id for s in self.live} if kept is None else kept
        found: dict[str, str] = {}
        seen: set[str] = set()
        for tip in (self.head, *(session.id for session in self.live)):
            nearest = None
            for session_id in self._upwards(tip):
                # The ancestors of a session seen before already have successors.
                if session_id in found or (nearest is None and session_id in seen):
                    break
                seen.add(session_id)
                if nearest is not None:
                    found[session_id] = nearest
                if session_id in alive:
                    nearest = session_id
        return found

    def circular_packs(self) -> list[Pack]:
        """Return the packs that form cycles; an intact registry has none."""
        done: set[str] = set()
        circles = []
        for start in self.packs:
            path: dict[str, Pack] = {}
            at = start
            while at in self.packs and at != self.head and at not in done:
                done.add(at)
                path[at] = self.packs[at]
                at = self.packs[at].reference
            if at in path:
                circles += list(path.values())[list(path).index(at) :]
        return circles


def _missing(session_id: str) -> IntegrityError:
    return IntegrityError(
        f"session {shown_id(session_id)} is referenced but missing",
        reason="session-missing",
        session=session_id,
    )


def broken_references(packs: Iterable[Pack], kept: set[str]) -> list[Pack]:
    """Return the packs of kept sessions whose reference is not kept."""
    return [pack for pack in packs if pack.session in kept and pack.reference not in kept]
