"""What a workspace reads of a session besides its experts."""

import numpy as np
import pytest
from made_registries import flip, learn, made_expert, made_registry

from condu_cli.backbone.base_models import load_base
from condu_cli.errors import IntegrityError, UsageError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.opening.workspace import Workspace, new_config
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


# New registries


@pytest.mark.parametrize(
    ("values", "exact", "trim"),
    [
        ({}, "vectors,depthwise,visual.proj", "0.5"),
        ({"train": "image"}, "vectors,depthwise,visual.proj", "0.5"),
        ({"train": "text"}, "vectors,depthwise", "0.5"),
        ({"method": "lora"}, "", "0"),
        ({"compat": "paper"}, "", "0"),
        ({"codec_options": {"exact": "vectors", "trim": "0.25"}}, "vectors", "0.25"),
        ({"method": "lora", "codec_options": {"trim": "0.25"}}, "", "0.25"),
    ],
)
def test_a_new_registry_keeps_small_parameters_and_the_linear_end_exactly(values, exact, trim):
    found = new_config(load_base("tiny"), **values)
    assert (found.codec.options["exact"], found.codec.options["trim"]) == (exact, trim)
    assert ("compat" in found.method_options) == ("compat" in values)


def test_a_parameter_that_does_not_exist_cannot_be_kept_exactly():
    with pytest.raises(UsageError, match=r"'proj' is neither .* nor the name of a parameter"):
        new_config(load_base("tiny"), codec_options={"exact": "vectors,proj"})


def test_a_registry_that_follows_the_paper_does_not_train_what_condu_adds():
    mini = load_base("mini")
    names = {
        compat: {p.name for p in new_config(mini, compat=compat).parameters}
        for compat in (None, "paper")
    }
    assert names[None] - names["paper"] == {"image_projection"}
