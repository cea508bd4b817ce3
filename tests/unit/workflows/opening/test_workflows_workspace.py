"""What a workspace reads of a session besides its experts."""

import numpy as np
import pytest
from made_registries import flip, learn, made_expert, made_registry

from condu_cli.errors import IntegrityError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.opening.workspace import Workspace
from condu_cli.workflows.sessions import trained_experts


@pytest.fixture
def registry(tmp_path) -> Registry:
    registry = made_registry(tmp_path / "made", "birds")
    learn(registry, "cars", head=True)
    return registry


def test_a_head_is_read_for_the_task_that_has_one(registry):
    workspace = Workspace(registry)
    session = workspace.head()
    assert workspace.head_beside(session, session.entry("birds")) is None
    found = workspace.head_beside(session, session.entry("cars"))
    expected = made_expert("cars", head=True).head
    assert found.keys() == expected.keys() == {"weights", "bias"}
    assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_a_corrupt_head_is_not_handed_out(registry):
    head = registry.head().entry("cars").expert.head
    flip(registry.blobs.path(head), -1)
    workspace = Workspace(registry)
    session = workspace.head()
    with pytest.raises(IntegrityError, match=f"{head} is corrupt"):
        workspace.head_beside(session, session.entry("cars"))


def test_a_head_for_other_classes_names_the_task(registry, monkeypatch):
    monkeypatch.setattr(trained_experts, "check_head", lambda arrays, classes: arrays)
    learn(registry, "dogs", head=True, head_classes=3)
    workspace = Workspace(registry)
    session = workspace.head()
    with pytest.raises(IntegrityError, match=r"the head of task 'dogs' is corrupt.*'weights'"):
        workspace.head_beside(session, session.entry("dogs"))
