"""A small real registry: `tiny` with two tasks of coloured squares, learned once and copied."""

import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from condu_cli.errors import HeadMovedError
from condu_cli.registry.repository import Registry
from condu_cli.train.recipe import Recipe
from condu_cli.workflows.learning.learner import Learner
from condu_cli.workflows.learning.planning import LearnRequest
from condu_cli.workflows.learning.training import Machine
from condu_cli.workflows.opening.workspace import Workspace

ITERATIONS = 40
LEARNING_RATE = 3e-3


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch):
    for name in ("CONDU_BASE", "CONDU_DATA", "CONDU_REGISTRY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def warm(tmp_path_factory, make_pictures) -> Path:
    """Blue and red squares, ten of each."""
    return make_pictures(tmp_path_factory.mktemp("data") / "warm", ("blue", "red"), 10, 16)


@pytest.fixture(scope="session")
def plants(tmp_path_factory, make_pictures) -> Path:
    """Green and yellow squares, ten of each."""
    root = tmp_path_factory.mktemp("data") / "plants"
    return make_pictures(root, ("grass", "wheat"), 10, 16, seed=1, first_colour=2)


RECIPE_VALUES = {f.name for f in fields(Recipe)} - {"seed", "template", "method"} | {"epochs"}


def learner(
    path: Path, task: str, data: Path, *, base=None, machine=None, retrain=False, **values
) -> Learner:
    """Make a learner from values of the recipe and the request, distinguished by name."""
    overrides = {n: values.pop(n) for n in RECIPE_VALUES & values.keys()}
    request = LearnRequest(task=task, data=data, overrides=overrides, **values)
    return Learner(path, request, base, machine or Machine(), retrain=retrain)


def learn(path: Path, task: str, data: Path, on_progress=lambda _: None, **values):
    """Run one `learn` from plan to commit."""
    defaults = {"iterations": ITERATIONS, "learning_rate": LEARNING_RATE, "base": "tiny"}
    one = learner(path, task, data, **{**defaults, "precision": "float32", **values})
    return one.plan().run(on_progress)


@pytest.fixture(name="learner")
def learner_fixture():
    return learner


@pytest.fixture(name="learn", scope="session")
def learn_fixture():
    return learn


@pytest.fixture(scope="session")
def learned(tmp_path_factory, warm, plants) -> Path:
    """The registry that tests copy; it must not be changed."""
    path = tmp_path_factory.mktemp("learned") / "registry"
    # Without heads: experts that were tuned alone, so that there is drift to look at.
    learn(path, "warm", warm, head_first=False)
    learn(path, "plants", plants, head_first=False)
    return path


@pytest.fixture
def registry_path(learned, tmp_path) -> Path:
    return Path(shutil.copytree(learned, tmp_path / "registry"))


@pytest.fixture
def workspace(registry_path) -> Workspace:
    return Workspace(Registry.open(registry_path))


@pytest.fixture
def path(tmp_path) -> Path:
    """A path for a registry that does not exist yet."""
    return tmp_path / "new" / "registry"


@pytest.fixture
def planned(learner):
    """Return the plan of a learner made from the same values as for `learner`."""

    def plan(path, data, **values):
        values = {"task": "warm", "base": "tiny", **values}
        return learner(path, values.pop("task"), data, **values).plan().plan

    return plan


@pytest.fixture
def overtaken():
    """Learn a task while another process commits one; return the error and that session's id."""

    def overtake(path, task, data, *, others_data=None, others="other"):
        sessions = []

        def somebody_else_commits(event):
            if event.stage == "training" and event.done == 1:
                session = learn(path, others, others_data or data, iterations=2).session
                sessions.append(session)

        with pytest.raises(HeadMovedError) as caught:
            learn(path, task, data, somebody_else_commits, iterations=2)
        return caught.value, sessions[0]

    return overtake
