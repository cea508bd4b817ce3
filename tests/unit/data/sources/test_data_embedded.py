"""The two tasks that need no download."""

import hashlib
import sys
from pathlib import Path

import pytest
from PIL import Image

from condu_cli.cli.hints.making import hint_of
from condu_cli.data.sources import embedded
from condu_cli.data.sources.embedded import embedded_folder, write_embedded
from condu_cli.data.sources.folders import read_folder
from condu_cli.errors import DataError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "condu" / "embedded"


def content(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("written") / "digits"
    write_embedded("digits", root)
    return root


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("written") / "shapes"
    write_embedded("shapes", root)
    return root


def test_digits_are_scikit_learns_1797_in_ten_classes(digits):
    data = read_folder(digits)
    assert data.split == "folders"
    assert len(data.train) + len(data.test) == 1797
    assert len(data.class_names) == 10
    assert data.class_names[7] == "the digit seven"


def test_shapes_are_eighty_of_each_class(shapes):
    data = read_folder(shapes)
    assert set(data.folders) == {"circle", "square", "triangle", "star", "cross"}
    assert (len(data.train), len(data.test)) == (300, 100)
    assert data.class_names[data.folders.index("star")] == "star shape"


@pytest.mark.parametrize("task", ["digits", "shapes"])
def test_pictures_are_64_pixels_square_and_one_in_four_is_for_testing(task, request):
    root = request.getfixturevalue(task)
    data = read_folder(root)
    with Image.open(data.train[0].picture) as image:
        assert image.size == (64, 64)
    share = len(data.test) / (len(data.train) + len(data.test))
    assert share == pytest.approx(0.25, abs=0.001)


def test_the_same_bytes_are_written_every_time(shapes, tmp_path):
    write_embedded("shapes", tmp_path / "again")
    assert content(tmp_path / "again") == content(shapes)


def test_pictures_of_a_class_differ(shapes):
    written = content(shapes)
    assert len(set(written.values())) == len(written)


def test_they_are_written_to_the_cache_once(cache, monkeypatch):
    folder = embedded_folder("shapes")
    assert folder == cache / "shapes"
    before = content(folder)
    monkeypatch.setattr(embedded, "write_embedded", lambda *_: pytest.fail("written again"))
    assert embedded_folder("shapes") == folder
    assert content(folder) == before
    assert [path.name for path in cache.iterdir()] == ["shapes"]


def test_half_a_folder_is_never_left_behind(cache, monkeypatch):
    def interrupted(_task, root):
        (root / "train").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "write_embedded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embedded_folder("shapes")
    assert list(cache.iterdir()) == []


def test_the_work_of_a_process_that_was_first_is_taken(cache, monkeypatch):
    def overtaken(_task, root):
        root.mkdir()
        (cache / "shapes").mkdir()
        (cache / "shapes" / "theirs").touch()

    monkeypatch.setattr(embedded, "write_embedded", overtaken)
    assert content(embedded_folder("shapes")).keys() == {"theirs"}


def test_an_unknown_task_is_an_error_that_names_the_embedded_ones(tmp_path):
    with pytest.raises(DataError, match="'mnist' is not an embedded task") as caught:
        write_embedded("mnist", tmp_path)
    assert "digits, shapes" in hint_of(caught.value)


def test_digits_without_scikit_learn_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="scikit-learn") as caught:
        write_embedded("digits", tmp_path)
    assert "condu[mini]" in hint_of(caught.value)
