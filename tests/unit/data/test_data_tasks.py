"""Tasks by name: their templates, and where their pictures are looked for."""

import pytest

from condu_cli.data.embedded import EMBEDDED_TASKS
from condu_cli.data.tasks import (
    DATA_VARIABLE,
    DEFAULT_TEMPLATES,
    data_root,
    known_tasks,
    locate_data,
    templates_for,
)
from condu_cli.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch, tmp_path):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_there_are_two_embedded_tasks_and_the_eleven_of_mtil():
    tasks = known_tasks()
    assert len(tasks) == 13
    assert [name for name, task in tasks.items() if task.embedded] == list(EMBEDDED_TASKS)
    assert {name: task.name for name, task in tasks.items()} == {name: name for name in tasks}


def test_every_known_template_has_one_place_for_the_class():
    for task in known_tasks().values():
        assert task.templates
        assert {template.count("{}") for template in task.templates} == {1}, task.name
        assert task.classes >= 2


def test_the_eleven_tasks_of_mtil_have_1201_classes():
    assert sum(t.classes for t in known_tasks().values() if not t.embedded) == 1201


def test_a_known_task_brings_its_templates_and_others_get_the_default():
    assert templates_for("eurosat") == known_tasks()["eurosat"].templates
    assert templates_for("eurosat") != DEFAULT_TEMPLATES
    assert templates_for("my-own") == DEFAULT_TEMPLATES == ("a photo of a {}.",)


def test_templates_that_are_given_win():
    assert templates_for("eurosat", ("{} from above.", "a {}")) == ("{} from above.", "a {}")


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "", "a photo of a {name}."])
def test_a_template_must_hold_the_class_once(template):
    with pytest.raises(UsageError, match=r"must hold \{\} once"):
        templates_for("my-own", ("a {}.", template))


def test_a_folder_that_is_given_is_the_answer(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    (tmp_path / "dtd").mkdir()
    assert locate_data("dtd", tmp_path / "mine") == tmp_path / "mine"


def test_condu_data_holds_one_folder_per_task(tmp_path, monkeypatch):
    (tmp_path / "dtd").mkdir()
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert data_root() == tmp_path
    assert locate_data("dtd", None) == tmp_path / "dtd"


def test_condu_data_wins_over_embedded_pictures(tmp_path, monkeypatch):
    (tmp_path / "shapes").mkdir()
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert locate_data("shapes", None) == tmp_path / "shapes"


def test_embedded_pictures_are_found_without_any_setting(tmp_path):
    assert data_root() is None
    assert locate_data("shapes", None) == tmp_path / "cache" / "condu" / "embedded" / "shapes"


def test_nowhere_is_an_error_that_says_where_it_looked(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no pictures for task 'dtd'$"):
        locate_data("dtd", None)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match="looked in") as caught:
        locate_data("dtd", None)
    assert str(tmp_path / "dtd") in caught.value.message
    assert "--data DIR" in caught.value.hint
