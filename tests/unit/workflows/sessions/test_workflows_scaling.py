"""What commands cost as history and tasks grow: counted, not timed."""

from dataclasses import astuple

import pytest
from counting import Counts, counted
from made_registries import learn, made_registry
from many_tasks import add_sessions, registry_of_tasks

from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.registry.storage import measure
from condu_cli.workflows.opening.pinning import pin_head
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.verification import verify

FEW, MANY = 10, 100


@pytest.fixture(scope="module")
def histories(tmp_path_factory) -> dict[int, Registry]:
    """Two registries of the same three tasks; tests must leave them unchanged."""
    made = {}
    for sessions in (FEW, MANY):
        registry = made_registry(tmp_path_factory.mktemp("histories") / "made", *"abc")
        add_sessions(registry, sessions - 3)
        assert len(registry.session_ids()) == sessions
        assert [e.name for e in registry.head().entries] == [*"abc", "again"][
            : 3 + sessions % 2 + 1
        ]
        made[sessions] = registry
    return made


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> dict[int, Registry]:
    """Registries with few and with many tasks."""
    return {
        count: registry_of_tasks(tmp_path_factory.mktemp("tasks"), count) for count in (FEW, MANY)
    }


def cost(registry: Registry, work) -> Counts:
    """Count the work of a function on a freshly opened registry, as in a command."""
    opened = Registry.open(registry.path)
    with counted() as counts:
        work(opened)
    return counts


def commit(registry) -> None:
    learn(registry, "new")


def commit_and_forget(registry) -> None:
    learn(registry, "new")
    forget(registry, "new", "forget")


def rename_there_and_back(registry) -> None:
    rename(registry, "a", "b2", "rename")
    rename(registry, "b2", "a", "rename")


def back_and_forth(registry) -> None:
    roll_back(registry, Aim(), "rollback")
    roll_back(registry, Aim(undo=True), "undo")


CONSTANT = {
    "commit": commit_and_forget,
    "rename": rename_there_and_back,
    "ls": lambda registry: registry.head(),
    "rollback -n 1": back_and_forth,
    "predict's opening": pin_head,
    "storage-report": measure,
    "resolve": lambda registry: registry.resolve("@~2"),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_what_looks_at_head_costs_the_same_in_any_history(histories, name):
    few, many = (cost(registry, CONSTANT[name]) for registry in histories.values())
    assert few == many


LINEAR = {
    "log": lambda registry: registry.history(),
    "verify": verify,
    "verify --quick": lambda registry: verify(registry, quick=True),
    "gc": lambda registry: collect(registry, None),
    "show": lambda registry: registry.ancestors(registry.head()),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_reads_the_history_grows_with_it_and_no_faster(histories, name):
    few, many = (cost(registry, LINEAR[name]) for registry in histories.values())
    growth = MANY / FEW * 1.2
    for before, after in zip(astuple(few), astuple(many), strict=True):
        assert after <= max(before, 1) * growth
    ids = histories[MANY].session_ids()
    assert many.manifests <= len(ids) + 1  # once each, plus HEAD's


def test_verify_applies_each_patch_once(histories):
    for registry in histories.values():
        patches = [p for p in registry.history().packs.values() if p.patch is not None]
        assert cost(registry, verify).patches == len(patches)


def test_a_commit_applies_the_patch_that_it_writes_and_no_other(histories):
    assert cost(histories[MANY], commit_and_forget).patches == 2


TASKS = {
    "ls": lambda registry: registry.head(),
    "predict's opening": pin_head,
    "verify": verify,
    "storage-report": measure,
    "gc": lambda registry: collect(registry, None),
}


@pytest.mark.parametrize("name", TASKS)
def test_nothing_grows_faster_than_the_tasks(tasks, name):
    few, many = (cost(registry, TASKS[name]) for registry in tasks.values())
    for before, after in zip(astuple(few), astuple(many), strict=True):
        assert after <= max(before, 1) * MANY / FEW
    assert many.statements == few.statements


def test_a_commit_reads_each_task_once(tasks):
    """Runs last, because it changes them."""
    few, many = (cost(registry, commit) for registry in tasks.values())
    assert many.statements == few.statements
    assert many.manifests == few.manifests
    assert many.patches == few.patches == 1
    assert many.opened - few.opened <= 4 * (MANY - FEW)
    assert many.hashed - few.hashed <= 4 * (MANY - FEW)
