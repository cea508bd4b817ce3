"""Evaluate finds a public data set again and measures on its test pictures."""

from types import SimpleNamespace

import made_sets
import pytest

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import DataError
from condu_cli.workflows.answering.evaluation import EvaluateRequest, _pictures


def learned(name="food101", classes=("apple pie", "waffles"), folder=None):
    """A minimal registry and task, enough to find pictures."""
    training = {"folders": ["apple_pie", "waffles"], "split": "published train/test"}
    entry = SimpleNamespace(name=name, expert=SimpleNamespace(classes=classes, training=training))
    return SimpleNamespace(folder_of=lambda _: None if folder is None else str(folder)), entry


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("CONDU_DATA", raising=False)
    made_sets.food101(tmp_path)
    return tmp_path


def names(pictures) -> list[str]:
    return [sample.picture.name for sample in pictures.samples]


def test_where_it_was_learned_from(root):
    registry, entry = learned(folder=root / "food-101")
    pictures, labels = _pictures(registry, entry, EvaluateRequest("food101"))
    assert (names(pictures), labels.tolist()) == (["14.jpg", "15.jpg"], [0, 1])


def test_after_the_task_was_renamed_too(root):
    registry, entry = learned("lunch", folder=root / "food-101")
    assert names(_pictures(registry, entry, EvaluateRequest("lunch"))[0]) == ["14.jpg", "15.jpg"]


@pytest.mark.parametrize("way", ["option", "variable"])
def test_below_a_data_root_on_a_machine_that_did_not_learn_it(root, monkeypatch, way):
    registry, entry = learned(folder=root / "gone" / "food-101")
    if way == "variable":
        monkeypatch.setenv("CONDU_DATA", str(root))
    request = EvaluateRequest("food101", data_root=root if way == "option" else None)
    assert names(_pictures(registry, entry, request)[0]) == ["14.jpg", "15.jpg"]


def test_its_training_pictures_can_be_measured(root):
    registry, entry = learned(folder=root / "food-101")
    pictures, _ = _pictures(registry, entry, EvaluateRequest("food101", split="train"))
    assert sorted(names(pictures)) == ["11.jpg", "12.jpg", "13.jpg"]


def test_labels_follow_the_tasks_own_order_and_names(root):
    registry, entry = learned(classes=("waffle", "pie"), folder=root / "food-101")
    entry.expert.training["folders"] = ["waffles", "apple_pie"]
    assert _pictures(registry, entry, EvaluateRequest("food101"))[1].tolist() == [1, 0]


def test_nowhere_says_how_to_name_a_data_root(root):
    registry, entry = learned()
    with pytest.raises(DataError, match="no pictures for task 'food101'") as caught:
        _pictures(registry, entry, EvaluateRequest("food101"))
    assert "--data-root DIR" in hint_of(caught.value)
