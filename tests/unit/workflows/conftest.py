"""A small real registry: `tiny` with two tasks of coloured squares, learned once and copied."""

import shutil
from pathlib import Path

import pytest

from condu_cli.registry.repository import Registry
from condu_cli.workflows.learning import Learner, LearnRequest
from condu_cli.workflows.workspace import Workspace

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


def learn(path: Path, task: str, data: Path, on_progress=lambda _: None, **values):
    """Run one `learn` from plan to commit."""
    values = {"iterations": ITERATIONS, "learning_rate": LEARNING_RATE, "base": "tiny", **values}
    learner = Learner(path, LearnRequest(task=task, data=data, **values))
    return learner.run(learner.plan(), on_progress)


@pytest.fixture(name="learn")
def learn_fixture():
    return learn


@pytest.fixture(scope="session")
def learned(tmp_path_factory, warm, plants) -> Path:
    """The registry that tests copy; nobody may change this one."""
    path = tmp_path_factory.mktemp("learned") / "registry"
    learn(path, "warm", warm)
    learn(path, "plants", plants)
    return path


@pytest.fixture
def registry_path(learned, tmp_path) -> Path:
    return Path(shutil.copytree(learned, tmp_path / "registry"))


@pytest.fixture
def workspace(registry_path) -> Workspace:
    return Workspace(Registry.open(registry_path))
