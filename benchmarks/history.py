"""What the history of a registry costs on disk, and how long it takes to go back in it.

    python benchmarks/history.py --data DIR --work DIR [--tasks ...] [--dtype float32] [--base mini]

Each task is learned once, by `condu learn`, in a separate registry under --work (registries of
earlier runs are reused). The experts are then committed one after another to a new registry with
the given dtype and rescalers. After each commit its blobs are measured in three ways: as condu
stores them (HEAD in files, each older session as a patch on the next one), as full copies, and as
the plain difference of each file with the next session's (exclusive or of the bytes, deflated),
which is what a tool without knowledge of the method would store. In the end every session is
rolled back to in turn; each must be restored with the same bytes.
"""

from __future__ import annotations

import argparse
import platform
import time
import zlib
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from command_line import condu
from single_experts import TASKS, add_expert, learn_alone

if TYPE_CHECKING:
    from condu_cli.registry.manifest import Session
    from condu_cli.registry.repository import Registry

ELEVEN = [*TASKS, "food101", "tiny_imagenet_32", "digits"]
MEGA = 1e6


def files_of(registry: Registry, session: Session) -> dict[str, int]:
    """The session's own blobs and their bytes, while they are there as files."""
    return {sha256: registry.blobs.size(sha256) for sha256 in session.blobs()}


def plain_difference(registry: Registry, older: Session, newer: Session) -> int:
    """Bytes of the older session's files as deflated differences with the newer one's."""
    pairs = [(older.shared, newer.shared)]
    pairs += [(entry.part, newer.entries[i].part) for i, entry in enumerate(older.entries)]
    total = 0
    for one, other in pairs:
        assert one is not None
        assert other is not None
        old, new = (np.fromfile(registry.blobs.path(s), np.uint8) for s in (one, other))
        size = min(old.size, new.size)
        mixed = np.concatenate([old[:size] ^ new[:size], old[size:]])
        total += len(zlib.compress(mixed.data, 6))
    return total


def history_bytes(registry: Registry) -> int:
    """Return the bytes that all live sessions need on disk, including HEAD."""
    return sum(registry.blobs.size(sha256) for sha256 in registry.history().needed_blobs())


class Chain:
    """A registry that grows by one expert at a time, and what its history would cost otherwise."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.copies: dict[str, int] = {}
        self.differences = 0
        self._kept: dict[str, bytes] = {}

    def add(self, path: Path, task: str) -> dict[str, float]:
        before = self.registry.head()
        saved = self._copy_away(before)
        commit = add_expert(self.registry, path, task)
        self.copies |= files_of(self.registry, commit.session)
        if before is not None:
            self.differences += self._with_files(saved, before, commit.session)
        head = sum(files_of(self.registry, commit.session).values())
        total, seconds = history_bytes(self.registry), commit.seconds
        return {
            "head": head / MEGA,
            "all": total / MEGA,
            "ratio": total / head,
            "copies": sum(self.copies.values()) / MEGA,
            "differences": (head + self.differences) / MEGA,
            "commit": seconds.keep_seconds + seconds.unify_seconds + seconds.commit_seconds,
            "pack": seconds.pack_seconds,
        }

    def _copy_away(self, session: Session | None) -> dict[Path, bytes]:
        blobs = self.registry.blobs
        state = () if session is None else session.state_blobs()
        return {blobs.path(sha256): blobs.path(sha256).read_bytes() for sha256 in state}

    def _with_files(self, saved: dict[Path, bytes], older: Session, newer: Session) -> int:
        """Measure plain differences with the older session's files put back for a moment."""
        gone = {path: content for path, content in saved.items() if not path.exists()}
        for path, content in gone.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        try:
            return plain_difference(self.registry, older, newer)
        finally:
            for path in gone:
                path.unlink()


def time_rollbacks(registry: Registry) -> list[tuple[int, float, float]]:
    """(sessions back, seconds to go there, seconds to come back), each checked byte for byte."""
    from condu_cli.registry.rollbacks import Aim
    from condu_cli.workflows.sessions.moving_head import roll_back
    from condu_cli.workflows.sessions.states import check_state

    head = registry.head()
    assert head is not None
    found = []
    for steps, target in enumerate(registry.ancestors(head), 1):
        started = time.perf_counter()
        roll_back(registry, Aim(target.id), "benchmark")
        there = time.perf_counter()
        check_state(registry, target)
        undone = time.perf_counter()
        roll_back(registry, Aim(undo=True), "benchmark")
        found.append((steps, there - started, time.perf_counter() - undone))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=ELEVEN)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rescaler", default="row")
    parser.add_argument("--base", default="mini")
    options = parser.parse_args()
    from condu_cli.registry.repository import Registry

    alone = {
        task: learn_alone(options.work, options.data, task, options.base) for task in options.tasks
    }
    path = options.work / f"history-{options.rescaler}-{options.dtype}"
    choices = ("--rescaler", options.rescaler, "--dtype", options.dtype)
    condu(path, "init", "--base", options.base, *choices)
    chain = Chain(Registry.open(path))
    print(f"{date.today()}, {platform.machine()}, {options.base}, {choices[1]}, {choices[3]}")
    print("session | HEAD MB | all MB | ratio | copies MB | differences MB | commit s | pack s")
    for number, (task, source) in enumerate(alone.items(), 1):
        row = chain.add(source, task)
        print(f"{number} {task} | " + " | ".join(f"{value:.2f}" for value in row.values()))
    print("sessions back | rollback s | undo s")
    for steps, there, back in time_rollbacks(chain.registry):
        print(f"{steps} | {there:.2f} | {back:.2f}")
    condu(path, "verify")


if __name__ == "__main__":
    main()
