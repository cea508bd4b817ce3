"""The known tasks, and where their pictures are looked for."""

import json
from importlib.resources import files
from pathlib import Path

import made_sets
import pytest
from made_sets import WRITERS

from condu_cli.data.sources.embedded import EMBEDDED_TASKS
from condu_cli.data.sources.known_tasks import (
    DEFAULT_TEMPLATES,
    State,
    known_set_at,
    known_tasks,
    plain_folder,
    where,
)

PUBLIC = [name for name in known_tasks() if name not in EMBEDDED_TASKS]
MTIL = [name for name in PUBLIC if name != "tiny_imagenet"]


def document() -> dict:
    return json.loads((files("condu_cli.data.sources") / "known_tasks.json").read_text("utf-8"))


def test_there_are_two_embedded_tasks_the_eleven_of_mtil_and_tiny_imagenet():
    tasks = known_tasks()
    assert len(tasks) == 14
    assert [name for name, task in tasks.items() if task.embedded] == list(EMBEDDED_TASKS)
    assert {name: task.name for name, task in tasks.items()} == {name: name for name in tasks}
    assert len(MTIL) == 11


def test_every_known_template_has_one_place_for_the_class():
    for task in known_tasks().values():
        assert task.templates
        assert {template.count("{}") for template in task.templates} == {1}, task.name
        assert task.classes >= 2
    assert known_tasks()["shapes"].templates == DEFAULT_TEMPLATES


def test_the_eleven_tasks_of_mtil_have_1201_classes():
    assert sum(known_tasks()[name].classes for name in MTIL) == 1201


def test_both_orders_hold_every_task_of_mtil_once():
    for order in document()["orders"].values():
        assert sorted(order) == sorted(MTIL)


@pytest.mark.parametrize("task", PUBLIC)
def test_what_is_known_of_a_public_set_fits_together(task):
    known = known_tasks()[task]
    public = known.public
    assert public.train_images + public.test_images <= known.images
    assert public.bytes > 1_000_000
    assert public.url.startswith("http")
    assert known.licence
    assert public.downloadable <= (public.torchvision is not None)
    assert all("{root}/" in text for text in public.needs)
    if public.class_names is not None:
        assert len(set(public.class_names)) == known.classes


@pytest.mark.parametrize("task", MTIL)
def test_the_papers_learning_rates_are_known(task):
    recipe = known_tasks()[task].public.paper_recipe
    assert recipe.lr_full == (5e-5 if task in {"aircraft", "mnist"} else 1e-5)
    assert 1e-5 <= recipe.lr_lora <= 2e-3
    assert 1e-5 <= recipe.lr_lora_5shot <= 3e-3


def test_no_other_set_has_a_recipe_of_the_paper():
    assert known_tasks()["tiny_imagenet"].public.paper_recipe is None


def test_two_sets_never_share_a_folder():
    folders = [known_tasks()[task].public.folder.lower() for task in PUBLIC]
    assert len(set(folders)) == len(folders)


# Where


@pytest.mark.parametrize("task", PUBLIC)
def test_a_set_in_torchvisions_layout_is_there(task, tmp_path):
    WRITERS[task](tmp_path)
    place = where(task, tmp_path)
    assert (place.state, place.missing) == (State.THERE, ())
    assert place.path == tmp_path / known_tasks()[task].public.folder
    assert known_set_at(place.path) == (task, tmp_path)
    assert plain_folder(task, tmp_path) is None


@pytest.mark.parametrize("task", PUBLIC)
def test_nothing_is_missing(task, tmp_path):
    assert where(task, tmp_path / "nowhere").state is State.NOT_THERE
    assert known_set_at(tmp_path) is None


def test_some_of_the_files_are_an_incomplete_set(tmp_path):
    made_sets.stanford_cars(tmp_path)
    labels = tmp_path / "stanford_cars" / "cars_test_annos_withlabels.mat"
    labels.unlink()
    place = where("stanford_cars", tmp_path)
    assert (place.state, place.missing) == (State.INCOMPLETE, (labels,))
    assert known_set_at(place.path) is None
    assert plain_folder("stanford_cars", tmp_path) is None


def test_a_folder_of_the_sets_own_name_without_its_files_is_incomplete(tmp_path):
    (tmp_path / "food-101").mkdir()
    assert where("food101", tmp_path).state is State.INCOMPLETE


@pytest.mark.parametrize("task", ["eurosat", "dtd", "food101", "my-own"])
def test_a_folder_called_like_the_task_with_folders_in_it_is_a_plain_one(task, tmp_path):
    assert plain_folder(task, tmp_path) is None
    (tmp_path / task).mkdir()
    assert plain_folder(task, tmp_path) is None
    (tmp_path / task / "train" / "a").mkdir(parents=True)
    assert plain_folder(task, tmp_path) == tmp_path / task
    if task in known_tasks():
        assert where(task, tmp_path).state is State.NOT_THERE


def test_a_folder_that_save_to_disk_wrote_is_a_plain_one(tmp_path):
    made_sets.lines(tmp_path / "dtd" / "state.json", "{}")
    assert plain_folder("dtd", tmp_path) == tmp_path / "dtd"


def test_a_set_is_known_from_inside_its_folder(tmp_path, monkeypatch):
    made_sets.dtd(tmp_path)
    monkeypatch.chdir(tmp_path / "dtd")
    assert known_set_at(Path()) == ("dtd", tmp_path)


@pytest.mark.parametrize("task", [*EMBEDDED_TASKS, "my-own"])
def test_only_public_sets_are_looked_for(task, tmp_path):
    with pytest.raises(KeyError):
        where(task, tmp_path)
