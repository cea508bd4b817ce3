"""Waiting experts are committed on the current HEAD."""

import os
import shutil

import pytest
from made_registries import flip, made_expert, made_registry

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import IntegrityError, PartialError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.learning.resuming import resume
from condu_cli.workflows.sessions.trained_experts import keep_expert


def test_the_kept_expert_is_committed_by_resume_on_what_is_head_now(registry_path, warm, overtaken):
    registry = Registry.open(registry_path)
    _, theirs = overtaken(registry_path, "third", warm)
    (done,) = resume(registry, "third")
    summary = done.summary
    assert (done.task, done.session) == ("third", registry.head())
    head = registry.head()
    assert (head.id, head.parent) == (summary.session, theirs)
    assert [entry.name for entry in head.entries] == ["warm", "plants", "other", "third"]
    assert (summary.iterations, summary.images, summary.classes) == (2, 16, 2)
    assert summary.train_seconds > 0
    assert registry.waiting.paths() == []
    assert registry.folder_of(head.entry("third")) == str(warm.resolve())


def test_resume_commits_bit_for_bit_what_training_gave(
    tmp_path, registry_path, warm, plants, learn, overtaken
):
    straight = shutil.copytree(registry_path, tmp_path / "straight")
    learn(straight, "other", plants, iterations=2)
    learn(straight, "third", warm, iterations=2)
    overtaken(registry_path, "third", warm, others_data=plants)
    resume(Registry.open(registry_path), None)
    one, other = Registry.open(straight).head(), Registry.open(registry_path).head()
    assert one.state_blobs() == other.state_blobs()


# Several wait


@pytest.fixture
def several(tmp_path):
    """A registry in which experts of a, b and a task in HEAD wait, in this order."""
    registry = made_registry(tmp_path / "made", "birds")
    for seconds, (task, seed) in enumerate([("a", 0), ("birds", 1), ("b", 0)]):
        path = keep_expert(registry, made_expert(task, seed)).path
        os.utime(path, (seconds, seconds))
    return registry


def test_one_that_cannot_be_committed_does_not_keep_the_others_back(several):
    (kept,), told = several.waiting.paths("birds"), []
    with pytest.raises(
        PartialError, match="1 of 3 kept experts could not be committed: task 'birds'"
    ) as caught:
        resume(several, None, on_done=told.append)
    assert caught.value.exit_code == 3
    assert "condu forget birds" in hint_of(caught.value)
    assert [entry.name for entry in several.head().entries] == ["birds", "a", "b"]
    assert [(done.task, done.summary.tasks) for done in told] == [("a", 2), ("b", 3)]
    assert several.waiting.paths() == [kept]


def test_of_two_experts_of_a_task_the_later_one_is_committed(tmp_path):
    registry = made_registry(tmp_path / "made", "birds")
    for seconds, seed in enumerate((0, 1)):
        path = keep_expert(registry, made_expert("a", seed)).path
        os.utime(path, (seconds, seconds))
    later = registry.waiting.open(path).metadata["training"]["run"]
    (done,) = resume(registry, None)
    assert registry.head().entry("a").expert.training["run"] == later
    assert done.session == registry.head()
    assert registry.waiting.paths() == []


def test_where_none_can_be_committed_the_first_error_is_raised(several):
    paths = several.waiting.paths()
    for seconds, path in enumerate(paths):
        flip(path, -1)
        os.utime(path, (seconds, seconds))  # they are listed by time
    with pytest.raises(IntegrityError, match=f"trained expert {paths[0]} is corrupt"):
        resume(several, None)
    assert several.waiting.paths() == paths


def test_what_a_session_has_already_is_answered_with_it(several):
    path = several.waiting.paths("b")[0]
    content = path.read_bytes()
    (done,) = resume(several, "b")
    path.write_bytes(content)
    (again,) = resume(several, "b")
    assert (again.task, again.summary, again.session) == ("b", None, done.session)
    assert several.waiting.paths("b") == []
