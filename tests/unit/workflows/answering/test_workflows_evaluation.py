"""Evaluate: accuracies in two label spaces that are never mixed."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from made_registries import flip
from PIL import Image

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import DataError, IntegrityError, NotFoundError
from condu_cli.workflows.answering.evaluation import (
    EvaluateRequest,
    Evaluation,
    evaluate,
    learned_from_folder,
)


def measured(workspace, task="warm", **values) -> Evaluation:
    return evaluate(workspace, workspace.head(), EvaluateRequest(task=task, **values))


@pytest.mark.parametrize("task", ["warm", "plants"])
def test_learned_tasks_are_answered_right_in_their_own_space(workspace, task):
    assert measured(workspace, task) == Evaluation(task, 1.0, 4, "own", 1)


@pytest.mark.parametrize("task", ["warm", "plants"])
def test_in_the_union_the_task_must_be_found_too(workspace, task):
    found = measured(workspace, task, label_space="union")
    assert found == Evaluation(task, 1.0, 4, "union", 1, routed=1.0, routed_to={task: 4})


def test_a_picture_that_another_task_takes_counts_as_wrong_in_the_union(
    workspace, tmp_path, make_pictures
):
    """Return pictures of plants under the class names of the other task."""
    data = make_pictures(tmp_path / "data", ("blue", "red"), 5, 16, first_colour=2)
    taken = measured(workspace, data=data, label_space="union")
    assert (taken.accuracy, taken.routed, taken.routed_to) == (0.0, 0.0, {"plants": taken.n})
    named = measured(workspace, data=data, label_space="own")
    assert (named.routed, named.routed_to) == (None, None)


def test_the_training_pictures_can_be_measured_instead(workspace):
    assert measured(workspace, split="train").n == 16


def test_more_experts_are_reported(workspace):
    assert measured(workspace, label_space="union", experts=2).experts == 2


def test_zero_shot_is_measured_on_the_same_pictures(workspace):
    found = measured(workspace, zero_shot=True)
    assert found.n == 4
    assert found.zero_shot in {0.0, 0.25, 0.5, 0.75, 1.0}
    assert measured(workspace).zero_shot is None


def test_zero_shot_asks_the_base_model_and_not_the_expert(workspace, monkeypatch):
    from condu_cli.workflows.answering import evaluation

    asked = []
    real = evaluation.logits_of

    def recording(model, *rest):
        asked.append(model)
        return real(model, *rest)

    monkeypatch.setattr(evaluation, "logits_of", recording)
    measured(workspace, zero_shot=True)
    assert asked == [workspace.base]


def test_another_order_of_the_classes_gives_the_same_accuracy(workspace, warm, tmp_path):
    """Return folders that sort in the opposite order, named by classes.json."""
    data = tmp_path / "data"
    shutil.copytree(warm / "red", data / "a")
    shutil.copytree(warm / "blue", data / "b")
    (data / "classes.json").write_text(json.dumps({"a": "red", "b": "blue"}))
    assert measured(workspace, data=data).accuracy == 1.0
    (data / "classes.json").write_text(json.dumps({"a": "blue", "b": "red"}))
    assert measured(workspace, data=data).accuracy == 0.0


def test_some_of_the_classes_are_enough(registry_path, tmp_path, make_pictures, learn):
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.opening.workspace import Workspace

    three = make_pictures(tmp_path / "three", ("a", "b", "c"), 10, 16)
    learn(registry_path, "three", three)
    shutil.rmtree(three / "a")
    found = measured(Workspace(Registry.open(registry_path)), "three", data=three)
    assert (found.accuracy, found.n) == (1.0, 4)


def test_a_class_that_the_task_does_not_know_is_an_error(workspace, tmp_path, make_pictures):
    data = make_pictures(tmp_path / "data", ("blue", "purple", "red", "teal"), 5, 16)
    with pytest.raises(DataError, match=r"has no class called 'purple' \(and 1 more\)") as caught:
        measured(workspace, data=data)
    assert "--class-names" in hint_of(caught.value)


def test_class_names_from_a_file_are_used(workspace, warm, tmp_path):
    data = shutil.copytree(warm, tmp_path / "data")
    (data / "blue").rename(data / "zero")
    (tmp_path / "names.json").write_text(json.dumps({"zero": "blue", "red": "red"}))
    names = tmp_path / "names.json"
    assert measured(workspace, data=data, class_names=names).accuracy == 1.0


def test_names_given_when_learning_need_not_be_given_again(
    registry_path, tmp_path, make_pictures, learn
):
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.opening.workspace import Workspace

    data = make_pictures(tmp_path / "data", ("k1", "k2"), 10, 16)
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"k1": "crimson", "k2": "navy"}))
    learn(registry_path, "named", data, class_names=names)
    found = measured(Workspace(Registry.open(registry_path)), "named", data=data)
    assert found.accuracy == 1.0


def test_another_folder_is_measured_whole(workspace, tmp_path):
    (tmp_path / "data" / "blue").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (16, 16), "blue").save(tmp_path / "data" / "blue" / f"{number}.png")
    assert measured(workspace, data=tmp_path / "data").n == 3


def test_a_test_folder_alone_is_enough(workspace, tmp_path, make_pictures):
    make_pictures(tmp_path / "data" / "test", ("blue", "red"), 4, 16)
    assert measured(workspace, data=tmp_path / "data").n == 8


def test_a_split_without_pictures_is_an_error(registry_path, tmp_path, make_pictures, learn):
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.opening.workspace import Workspace

    data = make_pictures(tmp_path / "data", ("blue", "red"), 1, 16)
    learn(registry_path, "single", data)
    with pytest.raises(DataError, match="no test pictures") as caught:
        measured(Workspace(Registry.open(registry_path)), "single")
    assert "--split train" in hint_of(caught.value)


def test_an_unknown_task_is_an_error(workspace):
    with pytest.raises(NotFoundError, match="no task 'nothing'"):
        measured(workspace, "nothing")


def test_the_folder_of_learning_is_remembered_while_it_is_there(
    registry_path, tmp_path, make_pictures, learn
):
    from condu_cli.registry.repository import Registry

    data = make_pictures(tmp_path / "gone", ("a", "b"), 5, 16)
    learn(registry_path, "third", data, iterations=1)
    registry = Registry.open(registry_path)
    entry = registry.head().entry("third")
    assert learned_from_folder(registry, entry) == data
    shutil.rmtree(data)
    assert learned_from_folder(registry, entry) is None


def test_the_folder_that_the_first_registries_recorded_is_used_too(workspace, tmp_path):
    entry = workspace.head().entry("warm")
    old = replace(
        entry,
        learned_in="a" * 64,
        expert=replace(entry.expert, training={"data": str(tmp_path)}),
    )
    registry = SimpleNamespace(folder_of=lambda _: None)
    assert learned_from_folder(registry, old) == tmp_path
    nowhere = replace(old, expert=replace(old.expert, training={}))
    assert learned_from_folder(registry, nowhere) is None


def test_a_corrupt_expert_answers_nothing(workspace):
    head = workspace.head()
    flip(workspace.registry.blobs.path(head.entry("warm").part), -1)
    with pytest.raises(IntegrityError, match=head.entry("warm").part):
        measured(workspace)


def test_pictures_that_are_gone_are_an_error_that_names_data(
    registry_path, tmp_path, make_pictures, learn
):
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.opening.workspace import Workspace

    data = make_pictures(tmp_path / "gone", ("a", "b"), 5, 16)
    learn(registry_path, "third", data, iterations=1)
    shutil.rmtree(data)
    with pytest.raises(DataError, match="no pictures for task 'third'") as caught:
        measured(Workspace(Registry.open(registry_path)), "third")
    assert "--data DIR" in hint_of(caught.value)


def test_pictures_that_cannot_be_read_are_left_out_and_named(workspace, tmp_path, make_pictures):
    data = make_pictures(tmp_path / "data", ("blue", "red"), 5, 16)
    (data / "red" / "00.png").write_bytes(b"broken")
    found = measured(workspace, data=data, zero_shot=True)
    assert (found.n, found.accuracy) == (9, 1.0)
    assert len(found.unreadable) == 1
    assert str(data / "red" / "00.png") in found.unreadable[0]


def test_where_no_picture_can_be_read_nothing_is_measured(workspace, tmp_path, make_pictures):
    data = make_pictures(tmp_path / "data", ("blue", "red"), 1, 16)
    for picture in data.glob("*/*"):
        picture.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of the pictures can be read: .*00\.png"):
        measured(workspace, data=data)
