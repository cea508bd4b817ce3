"""The destination of a training: what already exists there, and concurrent changes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from condu_cli.backbone.base_models import load_base
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, UsageError
from condu_cli.registry.blobs.kept_files import TaskFiles
from condu_cli.registry.repository import Registry
from condu_cli.workflows.learning.learner import Learner
from condu_cli.workflows.learning.planning import LearnRequest
from condu_cli.workflows.learning.resuming import resume
from condu_cli.workflows.learning.training import Training
from condu_cli.workflows.opening.workspace import new_config
from condu_cli.workflows.sessions import committing
from condu_cli.workflows.transfers.importing import Importer, ImportRequest

# HEAD moves while a task is trained


def test_a_session_committed_meanwhile_stops_the_commit_and_the_expert_is_kept(
    registry_path, warm, overtaken
):
    registry = Registry.open(registry_path)
    before = registry.head()
    error, theirs = overtaken(registry_path, "third", warm)
    assert error.exit_code == 11
    assert f"from {before.id[:12]} to {theirs[:12]}" in error.message
    assert "condu learn --task third --resume" in hint_of(error)
    assert registry.head().id == theirs
    assert [expert.task for expert in registry.waiting.all()] == ["third"]


def test_a_registry_created_meanwhile_keeps_the_expert(path, warm, plants, overtaken):
    error, theirs = overtaken(path, "warm", warm, others_data=plants)
    assert "from the empty state to" in error.message
    registry = Registry.open(path)
    assert registry.head().id == theirs
    resume(registry, "warm")
    assert [entry.name for entry in registry.head().entries] == ["other", "warm"]


def test_the_same_task_committed_meanwhile_keeps_head_and_the_expert(path, warm, overtaken):
    _, theirs = overtaken(path, "warm", warm, others="warm")
    registry = Registry.open(path)
    assert registry.head().id == theirs
    with pytest.raises(UsageError, match="already been learned"):
        resume(registry, "warm")
    assert [expert.task for expert in registry.waiting.all()] == ["warm"]


# HEAD holds a beginning of the task


@pytest.fixture
def begun(path, warm, learn, monkeypatch) -> Registry:
    """A registry whose only task is a beginning."""
    real = Training.record
    with monkeypatch.context() as patch:
        patch.setattr(Training, "record", lambda *args: {**real(*args), "quick": True})
        learn(path, "warm", warm, iterations=2)
    return Registry.open(path)


def test_a_beginning_is_learned_on_and_then_no_more(begun, warm, learn):
    before = begun.head()
    summary = learn(begun.path, "warm", warm, iterations=2)
    head = begun.head()
    assert (head.id, head.parent, summary.tasks) == (summary.session, before.id, 1)
    assert "quick" not in head.entry("warm").expert.training
    with pytest.raises(UsageError, match="'warm' has already been learned"):
        learn(begun.path, "warm", warm, iterations=2)


def test_of_two_that_go_on_from_a_beginning_the_first_to_commit_wins(begun, warm, overtaken):
    error, theirs = overtaken(begun.path, "warm", warm, others="warm")
    assert "condu learn --task warm --resume" in hint_of(error)
    assert begun.head().id == theirs
    with pytest.raises(UsageError, match="already been learned"):
        resume(begun, "warm")


def test_a_beginning_is_replaced_on_the_head_that_moved_meanwhile(begun, warm, overtaken):
    _, theirs = overtaken(begun.path, "warm", warm, others="third")
    (done,) = resume(begun, "warm")
    assert done.session.parent == theirs
    assert [entry.name for entry in done.session.entries] == ["third", "warm"]
    assert "quick" not in done.session.entry("warm").expert.training


def test_a_checkpoint_does_not_replace_a_beginning(begun, tmp_path):
    request = ImportRequest(task="warm", weights=tmp_path / "any.safetensors")
    with pytest.raises(UsageError, match="'warm' has already been learned"):
        Importer(begun.path, request)


# An expert waits


@pytest.fixture(scope="module")
def waiting_once(tmp_path_factory, learned, warm, learn):
    """The registry that `waiting` copies, and the error with which its commit failed."""
    path = shutil.copytree(learned, tmp_path_factory.mktemp("waiting") / "registry")

    def full(*_args, **_values):
        raise ConduError("no space left", reason="cannot-write")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(committing, "session_of_state", full)
        with pytest.raises(ConduError, match="no space left") as caught:
            learn(path, "third", warm, iterations=1)
    return path, caught.value


@pytest.fixture
def waiting(waiting_once, tmp_path):
    """A registry in which an expert of `third` waits because its commit failed."""
    return Registry.open(shutil.copytree(waiting_once[0], tmp_path / "registry"))


def test_a_commit_that_fails_keeps_the_expert_and_head(waiting, waiting_once, learned):
    assert hint_of(waiting_once[1]) == (
        "Free some space or correct the permissions, then run the command again; "
        "the trained expert is kept: condu learn --task third --resume commits it"
    )
    assert waiting.head() == Registry.open(learned).head()
    (done,) = resume(waiting, None)
    assert done.task == done.summary.task == "third"
    assert waiting.head().id == done.summary.session


def test_a_waiting_expert_is_not_trained_again_by_mistake(waiting, warm):
    with pytest.raises(UsageError, match="is waiting to be committed") as caught:
        Learner(waiting.path, LearnRequest(task="third", data=warm))
    assert "--resume" in hint_of(caught.value)
    assert "--retrain" in hint_of(caught.value)
    Learner(waiting.path, LearnRequest(task="fourth", data=warm))


def test_training_again_on_purpose_takes_the_place_of_what_waits(waiting, warm, learn):
    summary = learn(waiting.path, "third", warm, iterations=2, retrain=True)
    assert waiting.head().entry("third").expert.training["recipe"]["iterations"] == 2
    assert waiting.head().id == summary.session
    assert waiting.waiting.paths() == []


def test_what_waits_stays_while_training_again_fails(waiting, warm, learn):
    def interrupt(event):
        if event.stage == "training":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(waiting.path, "third", warm, interrupt, retrain=True)
    assert len(waiting.waiting.paths()) == 1


def test_a_corrupt_expert_of_another_task_is_ignored(waiting, warm, learn):
    (path,) = waiting.waiting.paths()
    path.write_bytes(path.read_bytes()[:10])
    summary = learn(waiting.path, "fourth", warm, iterations=1)
    assert waiting.head().id == summary.session
    assert waiting.waiting.paths() == [path]


def test_an_expert_of_another_task_may_go_at_any_time(waiting, warm, learn, monkeypatch):
    """Another process commits it after this one has listed the waiting experts."""
    listed = TaskFiles.paths

    def listed_and_gone(*args):
        found = listed(*args)
        for path in waiting.paths.trained.iterdir():
            if path.name.startswith("third."):
                path.unlink()
        return found

    monkeypatch.setattr(TaskFiles, "paths", listed_and_gone)
    summary = learn(waiting.path, "fourth", warm, iterations=1)
    assert waiting.head().id == summary.session


@pytest.mark.parametrize("retrain", [False, True])
def test_an_expert_that_another_process_keeps_meanwhile_is_left(
    registry_path, warm, learn, retrain
):
    registry, kept = Registry.open(registry_path), []

    def keep(event):
        if event.stage == "training" and event.done == 1:
            kept.append(registry.waiting.save("third", {"x": np.zeros(3)}, {}).path)

    learn(registry_path, "third", warm, keep, iterations=2, retrain=retrain)
    assert registry.head().entries[-1].name == "third"
    assert registry.waiting.paths() == kept


# Another registry at the same place


def test_another_registry_at_the_same_place_costs_no_training(path, warm, learn):
    def create(event):
        if event.stage == "training" and event.done == 1:
            Registry.create(path, new_config(load_base("tiny"), "lora"), command="init")

    summary = learn(path, "warm", warm, create, iterations=3)
    (beside,) = path.parent.glob(f"{path.name}-*")
    assert Registry.open(beside).head().id == summary.session
    assert Registry.open(path).head() is None
    assert any(str(beside) in warning for warning in summary.warnings)


def test_a_registry_by_a_relative_path_is_where_it_was_asked_for(
    tmp_path, warm, plants, learn, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert learn(Path("here"), "warm", warm, iterations=3).warnings == ()
    assert learn(Path("here"), "plants", plants, iterations=3).warnings == ()
