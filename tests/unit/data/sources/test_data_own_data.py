"""The user's own data: which reader is used, and what is refused before a picture is opened."""

import json

import pytest
from PIL import Image

from condu_cli.cli.hints.making import hint_of
from condu_cli.data.sources.own_data import read_source, read_source_split
from condu_cli.errors import DataError


@pytest.fixture(autouse=True)
def nothing_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a picture was opened"))


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.fixture
def tree(tmp_path):
    return touch(tmp_path / "tree", *(f"{name}/{i}.png" for name in "ab" for i in range(5)))


def test_a_folder_is_read_as_folders(tree):
    data = read_source(tree)
    assert (data.folders, len(data.train), len(data.test)) == (("a", "b"), 8, 2)
    assert read_source(tree, split_seed=1).split == "random 80/20, seed 1"
    assert len(read_source_split(tree, "test")[2]) == 10


def test_a_list_is_read_as_a_list(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\n1.png,a\n2.png,b\n")
    assert len(read_source(tmp_path / "list.csv").train) == 2


def test_class_names_are_next_to_a_list_or_are_given(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\n1.png,a\n2.png,b\n")
    (tmp_path / "classes.json").write_text(json.dumps({"a": "ape", "b": "bear"}))
    (tmp_path / "mine.txt").write_text("one\ntwo\n")
    assert read_source(tmp_path / "list.csv").class_names == ("ape", "bear")
    given = read_source(tmp_path / "list.csv", tmp_path / "mine.txt")
    assert given.class_names == ("one", "two")


@pytest.mark.parametrize("read", [read_source, lambda path: read_source_split(path, "test")])
def test_nothing_there_is_an_error(tmp_path, read):
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("read", [read_source, lambda path: read_source_split(path, "test")])
def test_another_kind_of_file_is_refused_with_the_kinds_that_are_read(tmp_path, read):
    path = touch(tmp_path, "pictures.doc") / "pictures.doc"
    with pytest.raises(DataError, match="neither a folder nor a list") as caught:
        read(path)
    assert ".csv" in hint_of(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "no pictures in subfolders"),
        (("a/notes.txt", "b/notes.txt"), "no pictures in subfolders"),
        (("1.png", "2.png"), "no pictures in subfolders"),
        (("a/1.png", "b/notes.txt"), "only one class"),
        (("train/a/1.png", "train/b/1.png", "test/c/1.png"), "train lacks: c"),
    ],
)
def test_a_folder_that_cannot_be_learned_is_refused_unopened(tmp_path, files, message):
    root = tmp_path / "data"
    root.mkdir()
    with pytest.raises(DataError, match=message):
        read_source(touch(root, *files))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": "ape"}, "no name for 1 classes: b"),
        (["ape"], "1 class names for 2 class folders"),
        (["ape", "ape"], "two classes are called 'ape'"),
    ],
)
def test_class_names_that_do_not_match_are_refused_unopened(tree, names, message):
    (tree / "classes.json").write_text(json.dumps(names))
    with pytest.raises(DataError, match=message):
        read_source(tree)
