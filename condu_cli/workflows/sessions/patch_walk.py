"""Many packed sessions at once: one walk from newest to oldest, in which no patch is applied twice.

Each pack refers to a newer session, so that packs are a forest whose roots have files. The walk
goes down from the roots and keeps a state only as long as a session that comes back from it is
still to be visited; of several such sessions the one with most behind it comes last, so that no
more than log2(n) states wait at a time, and two in a history without branches.
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
    """A session with its state; or with why it is not available."""

    session: Session
    found: FiledState | IntegrityError

    def state(self) -> FiledState:
        """Return the state; raise the IntegrityError that stands in its place."""
        if isinstance(self.found, IntegrityError):
            raise self.found
        return self.found


def restored_states(registry: Registry, history: History, wanted: Set[str]) -> Iterator[Restored]:
    """Yield the wanted sessions, each after what it is stored on; whoever keeps one pays for it.

    A session that has to have files is read from them, any other made from its patch, whatever
    files of its own there are.
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
    """The part of the packs that leads to the wanted sessions."""

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
        """Return the sessions stored on this one; the last of them has the fewest behind it."""
        return sorted(self._dependants[session_id], key=lambda i: -self._behind[i])

    def _sizes(self) -> dict[str, int]:
        """Count for each session that a root leads to those that lead to it, itself included."""
        order = list(self.roots)
        for session_id in order:  # grows while it is gone through
            order += self._dependants[session_id]
        sizes: dict[str, int] = {}
        for session_id in reversed(order):
            sizes[session_id] = 1 + sum(sizes[older] for older in self._dependants[session_id])
        return sizes
