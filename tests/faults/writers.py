"""Processes for the tests of concurrency, each run as `python writers.py ROLE REGISTRY ...`.

    commit               for every line `TASK PARENT`: commit a task on that parent
    hold COMMAND         hold the lock until killed
    churn SECONDS SEED   commit, pack, roll back, undo and collect repeatedly
    read COUNT STOP      COUNT processes decode HEAD until the file STOP exists

Each prints `ready` when it can begin, and a line of JSON for each result.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tiny_registry as tiny

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.opening.pinning import pin_head
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.committing import commit_expert
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST = 4  # rounds of the writer, even if readers take its processor
PAUSE = 0.2  # seconds between the passes of a reader, for the same reason


def commit(root: Path) -> Iterator[Any]:
    registry = Registry.open(root)
    ready()
    for line in sys.stdin:
        task, parent = line.split()
        expert = tiny.expert(registry, task)
        try:
            done = commit_expert(registry, expert, parent=parent, command=f"learn {task}")
        except ConduError as error:
            record = {"code": error.exit_code, "message": error.message, "hint": hint_of(error)}
            yield {"error": type(error).__name__, **record}
        else:
            yield {"session": done.session.id}


def hold(root: Path, command: str) -> Iterator[Any]:
    with Registry.open(root).lock(command):
        ready()
        yield time.sleep(600)


def churn(root: Path, seconds: str, seed: str) -> Iterator[Any]:
    """Work for some seconds; return what every session that was HEAD decodes to."""
    registry, draw = Registry.open(root), random.Random(seed)  # noqa: S311 - repeatable
    states: dict[str, Any] = {}
    counts = dict.fromkeys(("learn", "forget", "rename", "rollback", "gc"), 0)

    def note() -> None:
        head = registry.head()
        if head is not None and head.id not in states:
            states[head.id] = tiny.predictions_of(registry, head)

    note()
    ready()
    end, number = time.monotonic() + float(seconds), 0
    while time.monotonic() < end or number < LEAST:
        number += 1
        for step in _steps(registry, draw, number):
            counts[step] += 1
            note()
    yield {"states": states, "counts": counts}


def _steps(registry: Registry, draw: random.Random, number: int) -> Iterator[str]:
    """A few operations in a row; HEAD never stays without a task."""
    tiny.learn(registry, f"new{number}")
    yield "learn"
    history = registry.history()
    live = [i for i in history.line(history.head)[1:3] if i not in history.collected]
    tiny.roll_back_to(registry, draw.choice(live))
    yield "rollback"
    roll_back(registry, Aim(undo=True), "undo")
    yield "rollback"
    head = registry.head()
    assert head is not None
    rename(registry, head.entries[-1].name, f"named{number}", "rename")
    yield "rename"
    forget(registry, draw.choice(head.entries[:-1]).name, "forget")
    yield "forget"
    collect(registry, draw.choice((1, 2, 3)), undo=False)
    yield "gc"


def read(root: Path, count: str, stop: str) -> Iterator[Any]:
    """Fork the readers, which is faster than importing everything in each."""
    pids, parent = [], os.getpid()
    for number in range(int(count)):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                result = _read_until(root, Path(stop), parent)
                Path(f"{stop}.{number}").write_text(json.dumps(result))
                code = 0
            except BaseException:  # reported to the test, which fails
                traceback.print_exc()
            os._exit(code)
        pids.append(pid)
    ready()
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert not any(codes), f"a reader failed: {codes}"
    for number in range(int(count)):
        yield json.loads(Path(f"{stop}.{number}").read_text())


def _read_until(root: Path, stop: Path, parent: int) -> dict[str, Any]:
    """Pin HEAD, read all its blobs and decode all its experts, as often as there is time.

    A reader ends with its parent, or a test that fails would wait for it forever.
    """
    found: dict[str, set[tiny.Predictions]] = {}
    passes = 0
    while not stop.exists() and os.getppid() == parent:
        registry = Registry.open(root)
        pinned = pin_head(registry)
        assert pinned is not None
        session = pinned.session
        for entry in session.entries:
            dict(pinned.blob(entry.expert.prototypes))
        state = state_of(session, [pinned.blob(sha256) for sha256 in session.state_blobs()])
        found.setdefault(session.id, set()).add(tiny.decoded(registry, session, state))
        passes += 1
        time.sleep(PAUSE)
    return {"passes": passes, "found": {i: sorted(states) for i, states in found.items()}}


def ready() -> None:
    print("ready", flush=True)


if __name__ == "__main__":
    role = {"commit": commit, "hold": hold, "churn": churn, "read": read}[sys.argv[1]]
    for result in role(Path(sys.argv[2]), *sys.argv[3:]):
        print(json.dumps(result), flush=True)
