"""Watch what a process does to the disk, step by step, without the program knowing.

A step is a call that changes files, or an SQL statement other than a query. It is reported before
it happens; what is on disk after it is what is there before the next one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from condu_cli.registry.blobs import store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# How filelock probes a folder; it leaves nothing. Only Linux has such files.
NAMELESS = getattr(os, "O_TMPFILE", 0) & ~getattr(os, "O_DIRECTORY", 0)
PATHS = {  # audit events that change files, and how many of their arguments are paths
    "os.rename": 2,
    "os.remove": 1,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.truncate": 1,
    "os.link": 2,
    "os.symlink": 2,
}
ROOT = Path(__file__).resolve().parents[2]
RECORD = "steps.json"
QUESTIONS = ("SELECT", "PRAGMA", "--", "EXPLAIN")


class Step(NamedTuple):
    """A step that is about to happen: `what` is an event or the first word of a statement."""

    what: str
    paths: tuple[str, ...] = ()
    text: str = ""


Steps = list[Step]


def watch(folder: Path, on_step: Callable[[Step], None]) -> None:
    """Report every step under `folder` from now on; for a process that ends soon.

    An audit hook cannot be removed.
    """
    lock = threading.RLock()  # blobs are written by several threads

    def report(what: str, paths: tuple[str, ...] = (), text: str = "") -> None:
        if not paths or any(_is_under(path, folder) for path in paths):
            with lock:
                on_step(Step(what, paths, text))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            if not isinstance(arguments[0], int) and not arguments[2] & NAMELESS:
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
    """Report the statements of one connection, except those of read transactions."""
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


def record(names: Iterable[str], folder: Path, *, one_writer: bool = False) -> dict[str, Steps]:
    """Run operations in a separate process, each in `folder/NAME`; return all their steps.

    Several threads write blobs, so their steps come in any order; `one_writer` leaves one thread,
    so the steps are always the same.
    """
    names = list(names)
    subprocess.run(
        [sys.executable, __file__, folder, *(["--one-writer"] if one_writer else []), *names],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    return {name: _read(folder / name / RECORD) for name in names}


def _read(path: Path) -> Steps:
    return [Step(what, tuple(paths), text) for what, paths, text in json.loads(path.read_text())]


def leave_one_writer() -> None:
    """Make this process write blobs in one thread."""
    store._THREADS = 1


def main(folder: Path, *arguments: str) -> None:
    """Run each operation in a separate fork, since watching never ends, and record its steps."""
    names = [name for name in arguments if name != "--one-writer"]
    if "--one-writer" in arguments:
        leave_one_writer()
    for name in names:
        (folder / name).mkdir()
        child = os.fork()
        if child == 0:
            _run_and_exit(name, folder / name)
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"{name} failed")


def _run_and_exit(name: str, folder: Path) -> None:
    from operations import OPERATIONS

    try:
        operation = next(operation for operation in OPERATIONS if operation.name == name)
        operation.prepare(folder)
        found: Steps = []
        watch(folder, found.append)
        operation.run(folder)
        whole = json.dumps(found)
        (folder / RECORD).write_text(whole)
    except BaseException:  # nothing may go back to the parent's code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    import operations  # noqa: F401 - once, before the forks

    main(Path(sys.argv[1]), *sys.argv[2:])
