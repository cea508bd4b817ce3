"""What a longer history and more tasks cost: seconds at three sizes, and how they grow.

    python benchmarks/scaling.py [--sessions 10 100 500] [--tasks 10 100 500]

The base model is made up and tiny (2,328 parameters), so that what grows is the bookkeeping: rows,
manifests, files, patches. Sessions: registries of four tasks with histories of these lengths.
Tasks: registries of one session with these numbers of tasks. Each operation opens the registry
again, like a command; the best of three is printed. test_workflows_scaling.py counts the same.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from made_registries import learn, made_fresh
from many_tasks import add_sessions, registry_of_tasks

from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.registry.storage import measure
from condu_cli.workflows.opening.pinning import pin_head
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REPEATS = 3


def back_and_forth(registry: Registry) -> None:
    roll_back(registry, Aim(), "rollback")
    roll_back(registry, Aim(undo=True), "undo")


WORK: dict[str, Callable[[Registry], object]] = {
    "ls": lambda registry: registry.head(),
    "predict's opening": pin_head,
    "storage-report": measure,
    "log": lambda registry: registry.history(),
    "verify": verify,
    "gc": lambda registry: collect(registry, None),
    "rollback -n 1, --undo": back_and_forth,
    "commit": lambda registry: learn(registry, f"new-{len(registry.head().entries)}"),
}
"""What changes the registry comes last."""


def seconds(registry: Registry) -> dict[str, float]:
    registry.head()  # imports what is imported on first use
    found = {}
    for name, work in WORK.items():
        found[name] = min(once(registry, work) for _ in range(REPEATS))
    return found


def once(registry: Registry, work: Callable[[Registry], object]) -> float:
    opened = Registry.open(registry.path)
    started = time.perf_counter()
    work(opened)
    return time.perf_counter() - started


def of_sessions(folder: Path, count: int) -> Registry:
    registry = made_fresh(folder / "sessions", *"abc")
    add_sessions(registry, count - 3)
    return registry


def table(what: str, sizes: Sequence[int], make: Callable[[Path, int], Registry]) -> None:
    """Print a row for each operation: seconds at each size, and the ratio to the smallest."""
    found = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found[size] = seconds(make(Path(folder), size))
    print(f"| {what} | " + " | ".join(map(str, sizes)) + " | ratios |")
    print("|---" * (len(sizes) + 2) + "|")
    for name in WORK:
        row = [found[size][name] for size in sizes]
        ratios = ", ".join(f"{value / row[0]:.1f}" for value in row[1:])
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + f" | {ratios} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, nargs="+", default=[10, 100, 500])
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 100, 500])
    options = parser.parse_args()
    print(f"{date.today()}, {platform.machine()}, seconds")
    table("sessions", options.sessions, of_sessions)
    table("tasks", options.tasks, registry_of_tasks)


if __name__ == "__main__":
    main()
