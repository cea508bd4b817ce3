"""Restore many packed sessions in one walk from newest to oldest, applying each patch once.

Each pack refers to a newer session, so packs form a forest whose roots have files. The walk goes
down from the roots and keeps a state only while sessions that depend on it are still to be visited.
Of several such sessions the one with the most descendants comes last, so at most log2(n) states
wait at a time, and two in a history without branches.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from condu_cli.errors import IntegrityError
from condu_cli.workflows.sessions.states import (
    FiledState,
    circular_patches,
    state_from_files,
    state_from_patch,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Set

    from condu_cli.registry.manifest import Session
    from condu_cli.registry.reachability import History
    from condu_cli.registry.repository import Registry


@dataclass(frozen=True)
class Restored:
    """A session with its state, or with the reason why it is not available."""

    session: Session
    found: FiledState | IntegrityError

    def state(self) -> FiledState:
        """Return the state; raise the IntegrityError if it is not available."""
        if isinstance(self.found, IntegrityError):
            raise self.found
        return self.found


def restored_states(registry: Registry, history: History, wanted: Set[str]) -> Iterator[Restored]:
    """Yield the wanted sessions, each after its reference; keeping one keeps its memory.

    A session that must have files is read from them; any other is restored from its patch, even if
    it has files.
    """
    forest = _Forest(history, wanted)
    waiting: list[tuple[str, Restored | None]] = [(root, None) for root in forest.roots]
    while waiting:
        session_id, newer = waiting.pop()
        restored = _restore(registry, history, session_id, newer)
        if session_id in wanted:
            yield restored
        waiting += [(older, restored) for older in forest.dependants(session_id)]
    for session_id in sorted(wanted - forest.reached):
        session = history.session(session_id)
        yield Restored(session, circular_patches(session))


def _restore(
    registry: Registry, history: History, session_id: str, newer: Restored | None
) -> Restored:
    session = history.session(session_id)
    try:
        if newer is None:
            return Restored(session, state_from_files(registry, session))
        patch = history.packs[session_id].patch
        found = state_from_patch(registry, session, patch, newer.session, newer.state())
        return Restored(session, found)
    except IntegrityError as exc:
        return Restored(session, exc)


class _Forest:
    """The packs that lead to the wanted sessions."""

    def __init__(self, history: History, wanted: Iterable[str]) -> None:
        self.roots: list[str] = []
        self._dependants: dict[str, list[str]] = defaultdict(list)
        known: set[str] = set()
        for start in wanted:
            at = start
            while at not in known:
                known.add(at)
                if history.has_files(history.session(at)):
                    self.roots.append(at)
                    break
                reference = history.packs[at].reference
                self._dependants[reference].append(at)
                at = reference
        self._behind = self._sizes()
        self.reached = self._behind.keys()

    def dependants(self, session_id: str) -> list[str]:
        """Return the sessions stored on this one; the last has the fewest descendants."""
        return sorted(self._dependants[session_id], key=lambda i: -self._behind[i])

    def _sizes(self) -> dict[str, int]:
        """Count the descendants of every session that a root leads to, including itself."""
        order = list(self.roots)
        for session_id in order:  # grows during the loop
            order += self._dependants[session_id]
        sizes: dict[str, int] = {}
        for session_id in reversed(order):
            sizes[session_id] = 1 + sum(sizes[older] for older in self._dependants[session_id])
        return sizes
