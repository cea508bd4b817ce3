"""Tasks by name: their templates, and where their pictures are looked for."""

from pathlib import Path

import made_sets
import pytest

from condu_cli.cli.hints.making import hint_of
from condu_cli.data.labelled import fingerprint
from condu_cli.data.sources import downloads
from condu_cli.data.sources.known_tasks import (
    DATA_VARIABLE,
    DEFAULT_TEMPLATES,
    data_root,
    known_tasks,
)
from condu_cli.data.sources.task_data import (
    LearnedFrom,
    find_data,
    open_data,
    open_split,
    templates_for,
)
from condu_cli.errors import DataError, UsageError

SIDES = ((0, "train"), (1, "test"))


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch, tmp_path):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_known_task_brings_its_templates_and_others_get_the_default():
    assert templates_for("eurosat") == known_tasks()["eurosat"].templates
    assert templates_for("eurosat") != DEFAULT_TEMPLATES
    assert templates_for("my-own") == DEFAULT_TEMPLATES == ("a photo of a {}.",)


def test_templates_that_are_given_win():
    assert templates_for("eurosat", ("{} from above.", "a {}")) == ("{} from above.", "a {}")


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "", "a photo of a {name}."])
def test_a_template_must_hold_the_class_once(template):
    with pytest.raises(UsageError, match=r"must contain \{\} once"):
        templates_for("my-own", ("a {}.", template))


# Where


def test_a_folder_that_is_given_is_the_answer(tmp_path, monkeypatch, make_pictures):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    make_pictures(tmp_path / "dtd", ("banded", "lined"), 2, 8)
    mine = make_pictures(tmp_path / "mine", ("a", "b"), 2, 8)
    assert open_data("dtd", mine, None, None)[1] == mine


def test_condu_data_holds_one_folder_per_task(tmp_path, monkeypatch):
    (tmp_path / "dtd" / "banded").mkdir(parents=True)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert data_root() == tmp_path
    assert find_data("dtd", None) == tmp_path / "dtd"


def test_a_data_root_that_is_given_takes_precedence_over_condu_data(tmp_path, monkeypatch):
    for name in ("given", "set"):
        (tmp_path / name / "dtd" / "banded").mkdir(parents=True)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "set"))
    assert find_data("dtd", tmp_path / "given") == tmp_path / "given" / "dtd"


def test_condu_data_takes_precedence_over_embedded_pictures(tmp_path, monkeypatch):
    (tmp_path / "shapes" / "star").mkdir(parents=True)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert find_data("shapes", None) == tmp_path / "shapes"


def test_embedded_pictures_are_found_without_any_setting(tmp_path, monkeypatch):
    embedded = tmp_path / "cache" / "condu" / "embedded" / "shapes"
    assert data_root() is None
    assert find_data("shapes", None) == embedded
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "nowhere"))
    assert find_data("shapes", None) == embedded


def test_a_public_set_in_its_own_layout_takes_precedence_over_a_plain_folder(tmp_path):
    (tmp_path / "food101" / "pie").mkdir(parents=True)
    assert find_data("food101", tmp_path) == tmp_path / "food101"
    made_sets.food101(tmp_path)
    assert find_data("food101", tmp_path) == tmp_path / "food-101"


def test_a_plain_folder_takes_precedence_over_an_incomplete_public_set(tmp_path):
    (tmp_path / "food101" / "pie").mkdir(parents=True)
    (tmp_path / "food-101").mkdir()
    assert find_data("food101", tmp_path) == tmp_path / "food101"


def test_nowhere_is_an_error_that_says_where_it_looked(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no pictures for task 'dtd'$") as caught:
        find_data("dtd", None)
    assert "--data-root DIR" in hint_of(caught.value)
    assert "condu tasks dtd" in hint_of(caught.value)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match="looked in") as caught:
        find_data("dtd", None)
    assert str(tmp_path / "dtd") in caught.value.message
    assert "--data DIR" in hint_of(caught.value)


def test_a_task_of_ones_own_that_is_nowhere_names_the_folder_to_make(tmp_path):
    with pytest.raises(DataError, match="'my-own'") as caught:
        find_data("my-own", tmp_path)
    assert str(tmp_path / "my-own") in caught.value.message
    assert "in a folder my-own below" in hint_of(caught.value)


def test_a_download_needs_a_folder():
    with pytest.raises(UsageError, match="a download needs a folder") as caught:
        find_data("dtd", None, download=True)
    assert "--data-root DIR" in hint_of(caught.value)


def test_what_is_not_there_is_downloaded_if_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "download_set", lambda _, root: made_sets.dtd(root))
    assert find_data("dtd", tmp_path, download=True) == tmp_path / "dtd"
    monkeypatch.setattr(downloads, "download_set", lambda *_: pytest.fail("downloaded again"))
    assert find_data("dtd", tmp_path, download=True) == tmp_path / "dtd"


# Opening


def test_a_public_set_is_read_as_such_and_its_folder_is_its_place(tmp_path):
    made_sets.food101(tmp_path)
    data, place = open_data("food101", None, tmp_path, None)
    assert place == tmp_path / "food-101"
    assert data.split == "published train/test"
    assert data.class_names == ("apple pie", "waffles")


@pytest.mark.parametrize("task", ["caltech101", "eurosat", "food101", "sun397"])
def test_pictures_are_below_the_place_even_if_it_is_relative(tmp_path, monkeypatch, task):
    made_sets.WRITERS[task](tmp_path)
    counts = {"caltech101": 202, "eurosat": 20, "sun397": 5}
    if task in counts:
        made_sets.index_of(task, [i % 2 == 0 for i in range(counts[task])], tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    data, place = open_data(task, None, Path(), None)
    assert not place.is_absolute()
    assert all(sample.picture.is_relative_to(place) for sample in (*data.train, *data.test))


def test_a_public_set_can_be_given_under_any_task(tmp_path):
    made_sets.food101(tmp_path)
    data, _ = open_data("lunch", tmp_path / "food-101", None, None)
    assert data.split == "published train/test"


def test_a_folder_of_pictures_is_read_with_the_seed_that_is_given(tmp_path, make_pictures):
    folder = make_pictures(tmp_path / "mine", ("a", "b"), 10, 8)
    data, place = open_data("my-own", folder, None, None, split_seed=7)
    assert (data.split, place) == ("random 80/20, seed 7", folder)


def test_a_list_of_pictures_is_read_and_measured_too(tmp_path, make_pictures):
    make_pictures(tmp_path / "mine", ("a", "b"), 2, 8)
    rows = (f"mine/{name}/{i:02d}.png,{name},{split}" for name in "ab" for i, split in SIDES)
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join(["path,label,split", *rows]))
    data, place = open_data("my-own", listed, None, None)
    assert (len(data.train), len(data.test), place) == (2, 2, listed)
    for learned_from in (None, listed):
        learned = LearnedFrom(learned_from)
        opened = open_split("my-own", listed, None, None, split="test", learned=learned)
        assert [s.picture.name for s in opened[0].samples] == ["01.png", "01.png"]


def test_class_names_that_are_given_name_the_classes(tmp_path):
    made_sets.food101(tmp_path)
    names = tmp_path / "names.txt"
    names.write_text("pie\nwaffle\n")
    assert open_data("food101", None, tmp_path, names)[0].class_names == ("pie", "waffle")


@pytest.mark.parametrize(("split", "count"), [("test", 2), ("train", 3)])
def test_a_public_set_is_measured_on_its_own_split(tmp_path, split, count):
    made_sets.food101(tmp_path)
    found, place = open_split("food101", None, tmp_path, None, split=split)
    assert (len(found.samples), place) == (count, tmp_path / "food-101")
    assert (found.folders, found.class_names) == (
        ("apple_pie", "waffles"),
        ("apple pie", "waffles"),
    )


def test_what_a_task_was_learned_from_is_split_as_it_was_learned(tmp_path, make_pictures):
    folder = make_pictures(tmp_path / "mine", ("a", "b"), 10, 8)
    learned = LearnedFrom(folder, split_seed=7)
    opened = open_split("own", None, None, None, split="test", learned=learned)
    assert set(opened[0].samples) == set(
        open_data("my-own", folder, None, None, split_seed=7)[0].test
    )
    assert open_split("own", folder, None, None, split="test", learned=learned)[1] == folder


@pytest.mark.parametrize("split", ["test", "train"])
def test_what_a_task_was_learned_from_is_recognised_at_another_place(
    tmp_path, make_pictures, split
):
    folder = make_pictures(tmp_path / "mine", ("a", "b"), 10, 8)
    data, _ = open_data("my-own", folder, None, None, split_seed=7)
    record = {"split": data.split, "test_fingerprint": fingerprint(data.test, data.folders)}
    moved = folder.rename(tmp_path / "elsewhere")
    learned = LearnedFrom.of(record, None)
    opened = open_split("own", moved, None, None, split=split, learned=learned)
    kept = data.test if split == "test" else data.train
    assert {s.picture.relative_to(moved) for s in opened[0].samples} == {
        s.picture.relative_to(folder) for s in kept
    }


def test_other_pictures_under_the_same_names_are_measured_whole(tmp_path, make_pictures):
    folder = make_pictures(tmp_path / "mine", ("a", "b"), 10, 8)
    data, _ = open_data("my-own", folder, None, None)
    record = {"split": data.split, "test_fingerprint": fingerprint(data.test, data.folders)}
    other = make_pictures(tmp_path / "other", ("a", "b"), 10, 24)
    learned = LearnedFrom.of(record, folder)
    assert len(open_split("own", other, None, None, split="test", learned=learned)[0].samples) == 20


def test_a_public_set_is_found_again_where_it_was_learned_from(tmp_path):
    made_sets.food101(tmp_path)
    place = tmp_path / "food-101"
    opened = open_split("renamed", None, None, None, split="test", learned=LearnedFrom(place))
    assert (len(opened[0].samples), opened[1]) == (2, place)


def test_another_folder_is_measured_whole(tmp_path, make_pictures):
    folder = make_pictures(tmp_path / "mine", ("a", "b"), 10, 8)
    assert len(open_split("own", folder, None, None, split="test")[0].samples) == 20


def test_a_data_root_that_is_named_takes_precedence_over_where_it_was_learned(
    tmp_path, make_pictures
):
    learned_from = make_pictures(tmp_path / "one" / "mine", ("a", "b"), 10, 8)
    other = make_pictures(tmp_path / "two" / "mine", ("a", "b"), 3, 8)
    opened = open_split(
        "mine", None, tmp_path / "two", None, split="test", learned=LearnedFrom(learned_from)
    )
    assert (len(opened[0].samples), opened[1]) == (6, other)


@pytest.mark.parametrize(
    ("split", "seed"),
    [("random 80/20, seed 7", 7), ("folders", 42), ("random 80/20, seed 42, index file", 42)],
)
def test_the_seed_of_a_split_is_read_from_its_record(split, seed):
    assert LearnedFrom.of({"split": split}, None).split_seed == seed


def test_a_train_folder_alone_is_recognised_too(tmp_path, make_pictures):
    make_pictures(tmp_path / "one" / "train", ("a", "b"), 10, 8)
    data, _ = open_data("my-own", tmp_path / "one", None, None)
    record = {"split": data.split, "test_fingerprint": fingerprint(data.test, data.folders)}
    moved = (tmp_path / "one").rename(tmp_path / "two")
    learned = LearnedFrom.of(record, None)
    assert len(open_split("own", moved, None, None, split="test", learned=learned)[0].samples) == 4
    assert open_split("own", moved, None, None, split="test")[0].folders == ("a", "b")
