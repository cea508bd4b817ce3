"""The operations that the fault tests interrupt, each with its initial registry."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tiny_registry as tiny

from condu_cli.registry.copies.backup import back_up_registry
from condu_cli.registry.database.engine import connect
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.committing import resume_expert
from condu_cli.workflows.sessions.current import is_learned
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.trained_experts import keep_expert

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS = Path(__file__).resolve().parents[1] / "migrations" / "formats"
NEW = "new"


@dataclass(frozen=True)
class Operation:
    """One command, on a registry that `prepare` creates in a folder.

    `seen` is everything by which a user could tell before from after; a kill must leave one of the
    two. `subject` is the folder that is written. `finish` completes the command after a kill, as a
    user would.
    """

    name: str
    prepare: Callable[[Path], object]
    run: Callable[[Path], object]
    seen: Callable[[Path], Any]
    subject: str = "registry"
    finish: Callable[[Path], object] | None = None
    learns: bool = False


def head_of(folder: Path) -> tiny.Predictions:
    registry = Registry.open(folder / "registry")
    return tiny.predictions_of(registry, registry.head())


def _opened(folder: Path) -> Registry:
    return Registry.open(folder / "registry")


def _with_tasks(count: int) -> Callable[[Path], object]:
    return lambda folder: tiny.create(folder / "registry", count)


def _learning(name: str, tasks: int, kind: str = "learn") -> Operation:
    def finish(folder: Path) -> None:
        _resume_all(folder)
        registry = _opened(folder)
        head = registry.head()
        if head is None or NEW not in {entry.name for entry in head.entries}:
            tiny.learn(registry, NEW, kind)

    return Operation(
        name,
        _with_tasks(tasks),
        lambda folder: tiny.learn(_opened(folder), NEW, kind),
        head_of,
        finish=finish,
        learns=True,
    )


def _resume_all(folder: Path) -> None:
    registry = _opened(folder)
    for waiting in registry.waiting.all():
        resume_expert(registry, waiting, command="learn --resume")


def _resuming() -> Operation:
    def prepare(folder: Path) -> None:
        registry = tiny.create(folder / "registry", 1)
        keep_expert(registry, tiny.expert(registry, NEW))

    return replace(LEARN, name="resume", prepare=prepare, run=_resume_all)


def _replacing() -> Operation:
    """Learning goes on from a beginning; both experts have heads."""

    def prepare(folder: Path) -> None:
        registry = tiny.create(folder / "registry", 1)
        tiny.learn(registry, NEW, quick=True, head=True)
        tiny.learn(registry, "task1")

    def run(folder: Path) -> None:
        tiny.learn(_opened(folder), NEW, head=True)

    def finish(folder: Path) -> None:
        _resume_all(folder)
        if not is_learned(_opened(folder).head(), NEW):
            run(folder)

    return replace(LEARN, name="learn, from a beginning", prepare=prepare, run=run, finish=finish)


def _rolled_back(folder: Path) -> None:
    tiny.roll_back_to(tiny.create(folder / "registry", 4), "@~2")


def _for_gc(folder: Path) -> None:
    """A tagged session whose patch's reference is removed: it must be stored again."""
    registry = tiny.create(folder / "registry", 4)
    registry.tag("kept", registry.resolve("@~2"), "tag")


def _seen_by_gc(folder: Path) -> Any:
    registry = _opened(folder)
    tagged = registry.resolve("kept")
    collected = sorted(registry.history().collected)
    return head_of(folder), tiny.predictions_of(registry, tagged), collected


def _old_format(folder: Path) -> None:
    shutil.copytree(FORMATS / "0001-row", folder / "registry")
    (folder / "registry" / "tmp").mkdir(exist_ok=True)  # git keeps no empty folders
    (folder / "registry" / "backups").mkdir(exist_ok=True)


def _seen_by_migration(folder: Path) -> Any:
    """The schema before opening, then the content of the migrated registry."""
    with closing(connect(folder / "registry" / "condu.sqlite")) as connection:
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return revision, head_of(folder)


def _seen_at(name: str) -> Callable[[Path], Any]:
    def seen(folder: Path) -> Any:
        if not (folder / name).exists():
            return None
        registry = Registry.open(folder / name)
        return tiny.predictions_of(registry, registry.head()), len(registry.sessions())

    return seen


def _back_up(folder: Path) -> None:
    back_up_registry(_opened(folder), folder / "backup", lambda done, total: None)


def _earlier_backup(folder: Path) -> None:
    """An older backup: since then a task was learned and the older session was packed."""
    registry = tiny.create(folder / "registry", 2)
    _back_up(folder)
    tiny.learn(registry, NEW)


LEARN = _learning("learn, second task", 1)
"""The whole path of an expert into a registry, which other commits share."""
LIKE_LEARN = (
    _learning("learn, first task", 0),
    _learning("learn, fourth task", 3),
    _learning("import", 1, "import"),
    _resuming(),
    _replacing(),
)
OPERATIONS = (
    LEARN,
    *LIKE_LEARN,
    Operation(
        "forget", _with_tasks(3), lambda f: forget(_opened(f), "task1", "forget task1"), head_of
    ),
    Operation(
        "rename", _with_tasks(2), lambda f: rename(_opened(f), "task0", NEW, "rename"), head_of
    ),
    Operation("rollback", _with_tasks(4), lambda f: tiny.roll_back_to(_opened(f), "@~2"), head_of),
    Operation(
        "undo", _rolled_back, lambda f: roll_back(_opened(f), Aim(undo=True), "undo"), head_of
    ),
    Operation(
        "gc",
        _for_gc,
        lambda f: collect(_opened(f), 1, undo=False),
        _seen_by_gc,
    ),
    Operation("migration", _old_format, _opened, _seen_by_migration),
    Operation(
        "init",
        lambda folder: None,
        lambda f: Registry.create(f / "registry", tiny.config()),
        _seen_at("registry"),
    ),
    Operation("first backup", _with_tasks(2), _back_up, _seen_at("backup"), subject="backup"),
    Operation("next backup", _earlier_backup, _back_up, _seen_at("backup"), subject="backup"),
)
