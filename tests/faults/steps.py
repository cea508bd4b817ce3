"""Watch what a process does to the disk, step by step, without the program knowing.

A step is a call that changes files, or an SQL statement that is more than a question. It is
reported before it happens; what is on the disk after it is what is there before the next one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
PATHS = {  # audit events that change files, and how many of their arguments are paths
    "os.rename": 2,
    "os.remove": 1,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.truncate": 1,
    "os.link": 2,
    "os.symlink": 2,
}
QUESTIONS = ("SELECT", "PRAGMA", "--", "EXPLAIN")


class Step(NamedTuple):
    """What is about to happen: `what` is an event or the first word of a statement."""

    what: str
    paths: tuple[str, ...] = ()
    text: str = ""


def watch(folder: Path, on_step: Callable[[Step], None]) -> None:
    """Report every step under `folder` from now on; for a process that ends soon.

    An audit hook cannot be taken away again.
    """
    lock = threading.RLock()  # blobs are written by several threads

    def report(what: str, paths: tuple[str, ...] = (), text: str = "") -> None:
        if not paths or any(_is_under(path, folder) for path in paths):
            with lock:
                on_step(Step(what, paths, text))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            if not isinstance(arguments[0], int):
                report("open", (os.fsdecode(arguments[0]),))
        elif event in PATHS:
            report(event, tuple(os.fsdecode(path) for path in arguments[: PATHS[event]]))

    sys.addaudithook(audit)
    _wrap_fsync(report)
    _wrap_sqlite(report)


def _is_under(path: str, folder: Path) -> bool:
    return not os.path.isabs(path) or Path(path).is_relative_to(folder)


def _wrap_fsync(report: Callable[..., None]) -> None:
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        report("fsync", (os.readlink(f"/proc/self/fd/{descriptor}"),))
        fsync(descriptor)

    os.fsync = watched  # type: ignore[assignment]


def _statements(report: Callable[..., None]) -> Callable[[str], None]:
    """Report the statements of one connection, less those of a transaction that only reads."""
    reading = False

    def on_statement(statement: str) -> None:
        nonlocal reading
        words = statement.upper().split()
        if words == ["BEGIN"]:
            reading = True
        elif words[0] in ("COMMIT", "ROLLBACK") and reading:
            reading = False
        elif words[0] not in QUESTIONS or "JOURNAL_MODE" in words:
            report(words[0], text=statement)

    return on_statement


def _wrap_sqlite(report: Callable[..., None]) -> None:
    connect = sqlite3.connect

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(_statements(report))
        return connection

    sqlite3.connect = watched  # type: ignore[assignment]


def main(name: str, folder: Path) -> None:
    """Run an operation in a prepared folder, and write its steps to `steps.json` there."""
    from operations import OPERATIONS

    operation = next(operation for operation in OPERATIONS if operation.name == name)
    found: list[Step] = []
    watch(folder, found.append)
    operation.run(folder)
    whole = json.dumps(found)
    (folder / "steps.json").write_text(whole)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
