"""Kill an operation at every step and at random moments, and check what is left each time.

Run as a separate program, because it forks: `python kill_harness.py OPERATION --seed N
--random COUNT [--at STEP ...]`. With `--at` it kills at those steps only; then one thread writes
blobs, so that a step has the same number in every run. The harness itself has one thread, imports
everything once, and forks a child for every kill.
The last line that it prints is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import steps
from operations import NEW, OPERATIONS, Operation

from condu_cli.registry.names import is_sha256
from condu_cli.registry.repository import Registry
from condu_cli.workflows.sessions import committing
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.verification import Verification, verify

if TYPE_CHECKING:
    from collections.abc import Callable

READY, KEPT, DONE = b"R", b"K", b"D"
MEMORY = Path("/dev/shm")  # noqa: S108 - where fsync costs nothing; a kill loses no page
ENOUGH = 60.0  # seconds for a signal to arrive
MOST_TRIES = 4  # for each random kill: the operation may end before its instant


@dataclass
class Harness:
    """One operation, its initial folder, and the results of the kills so far."""

    operation: Operation
    room: Path
    old: Any = None
    new: Any = None
    kept_before: bool = False
    outcomes: Counter[str] = field(default_factory=Counter)
    states: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def prepare(self) -> float:
        """Prepare the folder to copy; return how long a child takes."""
        self.operation.prepare(self._prepared)
        self.kept_before = any(self._prepared.glob("registry/trained/*"))
        self.old = self.operation.seen(self._copy())
        folder = self._copy()
        self.operation.run(folder)
        self.new = self.operation.seen(folder)
        if self.new == self.old:
            raise AssertionError("the operation changed nothing")
        child = Child(self.operation, self._copy())
        child.wait()
        return child.seconds

    def kill_at_step(self, number: int) -> bool:
        """Kill before a step and check; False if the operation has fewer steps."""
        folder = self._copy()
        child = Child(self.operation, folder, kill_at=number)
        told = child.wait()
        if not child.killed:
            if told[-1:] != DONE:
                self.failures.append(f"step {number}: the operation failed without a kill")
            return False
        self._check(folder, f"step {number}", kept=KEPT in told or self.kept_before)
        return True

    def kill_after(self, seconds: float) -> bool:
        """Kill at a random moment and check; False if the operation had ended."""
        folder = self._copy()
        child = Child(self.operation, folder)
        told = child.wait(kill_after=seconds)
        self._check(folder, f"after {seconds:.4f} s", kept=KEPT in told or self.kept_before)
        return child.killed

    @property
    def _prepared(self) -> Path:
        folder = self.room / "prepared"
        folder.mkdir(exist_ok=True)
        return folder

    def _copy(self) -> Path:
        folder = self.room / "work"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._prepared, folder)
        return folder

    def _check(self, folder: Path, when: str, *, kept: bool) -> None:
        try:
            before = signature(folder)
            seen = self.operation.seen(folder)
            assert seen in (self.old, self.new), "the state is neither the old nor the new one"
            self.outcomes["new" if seen == self.new else "old"] += 1
            if kept and seen == self.old:
                names = [e.task for e in Registry.open(folder / "registry").waiting.all()]
                assert names == [NEW], "the kept expert is lost"
            if before not in self.states:  # otherwise the rest was checked before
                self._check_thoroughly(folder)
                self.states.add(before)
        except Exception:  # the test shows all that went wrong
            self.failures.append(f"{when}: {traceback.format_exc(limit=-4)}")

    def _check_thoroughly(self, folder: Path) -> None:
        operation, subject = self.operation, folder / self.operation.subject
        if subject.exists():
            assert_sound(Registry.open(subject))
        finish = operation.finish or operation.run
        if operation.finish or operation.seen(folder) != self.new:
            finish(folder)
        assert operation.seen(folder) == self.new, "finishing leads to another state"
        registry = Registry.open(subject)
        collect(registry, None)
        assert not assert_sound(registry).leftovers
        assert_tidy(registry, folder)


class Child:
    """A fork that runs an operation, and may kill itself before a step."""

    def __init__(self, operation: Operation, folder: Path, kill_at: int | None = None) -> None:
        assert threading.active_count() == 1, "forking would lose a thread"
        self.killed = False
        self._pipe, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _run_and_exit(operation, folder, kill_at, writing)
        os.close(writing)

    def wait(self, kill_after: float | None = None) -> bytes:
        """Wait for its end, or kill it after some seconds; return its message."""
        told = os.read(self._pipe, 1)
        started = time.perf_counter()
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(self._pid, signal.SIGKILL)  # not reaped yet, so the id is still valid
        while more := os.read(self._pipe, 64):
            told += more
        self.seconds = time.perf_counter() - started
        os.close(self._pipe)
        _, status = os.waitpid(self._pid, 0)
        self.killed = os.WIFSIGNALED(status)
        return told


def _run_and_exit(operation: Operation, folder: Path, kill_at: int | None, pipe: int) -> None:
    try:
        if kill_at is not None:
            steps.watch(folder, _killer(kill_at))
        _tell_what_is_kept(lambda: os.write(pipe, KEPT))
        os.write(pipe, READY)
        operation.run(folder)
        os.write(pipe, DONE)
    except BaseException:  # nothing may go back to the parent's code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _killer(number: int) -> Callable[[steps.Step], None]:
    left = iter(range(number))

    def on_step(_: steps.Step) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(ENOUGH)

    return on_step


def _tell_what_is_kept(tell: Callable[[], object]) -> None:
    keep = committing.keep_expert

    def watched(*arguments: Any) -> Any:
        waiting = keep(*arguments)
        tell()
        return waiting

    committing.keep_expert = watched


def assert_sound(registry: Registry) -> Verification:
    found = verify(registry)
    assert not found.problems, f"verify finds {found.problems}"
    return found


def assert_tidy(registry: Registry, folder: Path) -> None:
    """Nothing is left of what was killed: no draft, no unreferenced blob."""
    own = set(registry.paths.own)
    strange = [path.name for path in registry.path.iterdir() if path not in own]
    strange += [p.name for p in registry.paths.backups.glob("*") if p.suffix != ".sqlite"]
    strange += [path.name for path in registry.paths.tmp.iterdir()]
    strange += [path.name for path in registry.waiting.paths()]
    strange += [p.name for p in folder.iterdir() if p.name not in ("registry", "backup")]
    assert not strange, f"left behind: {strange}"


def signature(folder: Path) -> str:
    """What is on disk, without what differs between runs: times, process ids, randomness.

    Two kills with the same result need the slow checks only once. The number of drafts and the
    names of unreferenced blobs make no difference to what follows.
    """
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    databases = [path for path in found if path.suffix == ".sqlite" and path.stat().st_size]
    rows = [_rows(path) for path in databases]
    lines = {_plain(str(path.relative_to(folder)), "\n".join(rows)) for path in found}
    return "\n".join([*sorted(lines), *rows])


def _plain(name: str, rows: str) -> str:
    path = Path(name)
    if is_sha256(path.name) and path.name not in rows:
        return f"{path.parent.parent}/*"
    name = re.sub(r"-(wal|shm|journal)$|\.[0-9a-f]{64}\.", "", name)
    name = re.sub(r"\d+T\d+Z|-\d+-[0-9a-f]{16}", "*", name)
    return re.sub(r"(?<=/tmp/).*", "*", name)


def _rows(database: Path) -> str:
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True)) as connection:
            dump = "\n".join(connection.iterdump())
            found = connection.execute("SELECT id FROM sessions ORDER BY ordinal").fetchall()
    except sqlite3.DatabaseError as error:
        return str(error)
    for number, (session,) in enumerate(found):
        dump = dump.replace(session, f"session{number}")
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z|[\"'][0-9a-f]{16}[\"']|_seconds\":[\d.]+", "*", dump)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("operation", choices=[operation.name for operation in OPERATIONS])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--random", type=int, required=True)
    parser.add_argument("--at", type=int, nargs="+")
    given = parser.parse_args()
    operation = next(o for o in OPERATIONS if o.name == given.operation)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as room:
        harness = Harness(operation, Path(room))
        duration = harness.prepare()
        if given.at:
            steps.leave_one_writer()
        places = given.at or itertools.count()
        stepwise = sum(1 for _ in itertools.takewhile(harness.kill_at_step, places))
        draw = random.Random(f"{given.seed} {operation.name}")  # noqa: S311 - repeatable
        hits = tries = 0
        while hits < given.random and tries < MOST_TRIES * given.random:
            hits += harness.kill_after(draw.uniform(0, duration))
            tries += 1
    record = {
        "operation": operation.name,
        "seed": given.seed,
        "steps": stepwise,
        "random": hits,
        "ended": tries - hits,
        "old": harness.outcomes["old"],
        "new": harness.outcomes["new"],
        "states": len(harness.states),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu": round(sum(os.times()[:4]), 1),
        "failures": harness.failures,
    }
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
