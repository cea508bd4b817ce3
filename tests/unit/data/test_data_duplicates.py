"""The same picture twice: in two classes, or in training and test."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from stored_pictures import stored

from condu_cli.data import duplicates
from condu_cli.data.duplicates import duplicate_lines, same_pictures
from condu_cli.data.labelled import LabelledPictures, Sample


def data(train, test=()) -> LabelledPictures:
    """Labelled pictures from pairs of picture and label."""
    sides = [tuple(Sample(picture, label) for picture, label in side) for side in (train, test)]
    return LabelledPictures(("a", "b"), ("a", "b"), *sides, split="folders")


@pytest.fixture
def file(tmp_path):
    def make(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return make


def test_a_picture_in_two_classes_is_counted_and_named(file):
    one, two = file("one.png", b"x" * 5000), file("two.png", b"x" * 5000)
    (line,) = duplicate_lines(data([(one, 0), (two, 1), (file("three.png", b"y"), 1)]))
    assert line == f"1 picture is in two classes, such as {one} and {two}"


def test_a_picture_on_both_sides_of_the_split_is_counted_and_named(file):
    train = [(file(f"{i}.png", b"%d" % i), 0) for i in range(3)]
    test = [(file(f"test {i}.png", b"%d" % i), 0) for i in (1, 2, 7)]
    (line,) = duplicate_lines(data(train, test))
    assert line.startswith("2 pictures are both to train on and to test with, such as ")
    assert f"{train[1][0]} and {test[0][0]}: accuracies" in line


def test_twice_in_one_class_of_one_side_is_nothing_to_say(file):
    assert duplicate_lines(data([(file("1.png", b"x"), 0), (file("2.png", b"x"), 0)])) == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"x" * 5000, b"x" * 5001),
        (b"x" * 5000, b"x" * 4999 + b"y"),
        (b"y" + b"x" * 4999, b"x" * 5000),
        (b"", b"x"),
    ],
)
def test_files_that_differ_anywhere_are_other_pictures(file, one, other):
    pictures = [(file("1.png", one), 0), (file("2.png", other), 1)]
    assert same_pictures(data(pictures)) == []


def test_a_file_that_cannot_be_read_is_for_its_reader_to_name(file, tmp_path):
    gone = tmp_path / "gone.png"
    assert same_pictures(data([(gone, 0), (gone, 1), (file("1.png", b"x"), 0)])) == []


def test_pictures_in_stores_are_compared_too():
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    one, two, three = stored([red, blue, red])
    assert len(same_pictures(data([(one, 0), (two, 0)], [(three, 0)]))) == 1


def test_only_what_looks_alike_is_read_to_its_end(file, monkeypatch):
    read = []
    digest = duplicates._digest
    monkeypatch.setattr(duplicates, "_digest", lambda p: read.append(p) or digest(p))
    for count in (10, 100):
        read.clear()
        pictures = [(file(f"{i}.png", b"x" * 3000 + b"%06d" % i), 0) for i in range(count)]
        twin = file("twin.png", pictures[0][0].read_bytes())
        assert len(same_pictures(replace(data(pictures), test=(Sample(twin, 0),)))) == 1
        assert len(read) == 2
