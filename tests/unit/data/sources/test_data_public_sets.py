"""The public data sets: each reader on a small set in its on-disk format."""

import pickle
import sys
from pathlib import Path

import made_sets
import numpy as np
import pytest
from made_sets import WRITERS

from condu_cli.cli.hints.making import hint_of
from condu_cli.data.pictures.picture_files import open_picture, picture_name
from condu_cli.data.sources.known_tasks import known_tasks
from condu_cli.data.sources.public_sets import READERS, ArrayStore, read_known
from condu_cli.errors import DataError

SEEDED_COUNTS = {"caltech101": 202, "eurosat": 20, "sun397": 5}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return a function that writes a task's set and returns the data root."""

    def write(task: str) -> Path:
        root = tmp_path / "sets"
        WRITERS[task](root)
        made_sets.trust_files(task, root, monkeypatch)
        if task in SEEDED_COUNTS:
            every_other = [index % 2 == 0 for index in range(SEEDED_COUNTS[task])]
            made_sets.index_of(task, every_other, tmp_path, monkeypatch)
        return root

    return write


def summary(samples, classes) -> list[tuple[str, str]]:
    """Return the last part of each picture's name, and its class."""
    return [
        (picture_name(s.picture).replace("\\", "/").rsplit("/", 1)[-1], classes[s.label])
        for s in samples
    ]


def test_every_public_task_has_a_reader_and_a_test():
    public = {name for name, task in known_tasks().items() if not task.embedded}
    assert set(READERS) == set(WRITERS) == public


@pytest.mark.parametrize("task", WRITERS)
def test_every_picture_opens_and_its_label_is_a_class(made, task):
    data = read_known(task, made(task))
    assert len(data.class_names) == len(data.folders) == len(set(data.class_names))
    for sample in (*data.train, *data.test):
        assert 0 <= sample.label < len(data.folders)
        assert open_picture(sample.picture).mode == "RGB"
    assert data.split == known_tasks()[task].public.split


@pytest.mark.parametrize("task", WRITERS)
def test_no_picture_is_on_both_sides_and_names_differ(made, task):
    data = read_known(task, made(task))
    names = [picture_name(sample.picture) for sample in (*data.train, *data.test)]
    assert len(set(names)) == len(names)


def test_aircraft_are_the_variants_in_the_order_of_their_file(made):
    data = read_known("aircraft", made("aircraft"))
    assert data.class_names == data.folders == ("DHC-8-100", "707-320", "F/A-18")
    assert summary(data.train, data.folders) == [
        ("0001.jpg", "707-320"),
        ("0002.jpg", "F/A-18"),
        ("0003.jpg", "DHC-8-100"),
    ]
    assert summary(data.test, data.folders) == [("0005.jpg", "F/A-18")]


def test_caltech101_has_the_names_published_with_clip_and_no_background(made):
    data = read_known("caltech101", made("caltech101"))
    assert data.folders[:6] == (
        "Faces", "Faces_easy", "Leopards", "Motorbikes", "accordion", "airplanes",
    )  # fmt: skip
    assert data.class_names[:4] == ("off-center face", "centered face", "leopard", "motorbike")
    assert "BACKGROUND_Google" not in data.folders
    assert (len(data.folders), len(data.train), len(data.test)) == (101, 101, 101)
    assert {s.picture.name for s in data.train} == {"image_0001.jpg"}


def test_cifar100_is_taken_from_its_arrays(made):
    data = read_known("cifar100", made("cifar100"))
    assert data.folders == ("apple", "aquarium_fish", "baby")
    assert data.class_names == ("apple", "aquarium fish", "baby")
    assert [s.label for s in data.train] == [1, 0, 2]
    assert picture_name(data.train[2].picture) == "cifar100/train/000002"
    assert picture_name(data.test[0].picture) == "cifar100/test/000000"
    pixels = np.asarray(open_picture(data.train[0].picture))
    # The file holds 1,024 reds, then the greens, then the blues.
    assert pixels.shape == (32, 32, 3)
    assert pixels[0, 1].tolist() == [1, (1024 + 1) % 251, (2048 + 1) % 251]


def test_cifar100_is_never_unpickled_unless_it_is_the_published_file(tmp_path, monkeypatch):
    made_sets.cifar100(tmp_path)
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(DataError, match=r"cifar-100-python.*corrupted"):
        read_known("cifar100", tmp_path)


def test_dtd_is_partition_1_without_its_validation_pictures(made):
    data = read_known("dtd", made("dtd"))
    assert data.folders == ("banded", "zigzagged")
    assert summary(data.train, data.folders) == [("z_1.jpg", "zigzagged"), ("b_1.jpg", "banded")]
    assert summary(data.test, data.folders) == [("b_2.jpg", "banded"), ("z_3.jpg", "zigzagged")]


def test_eurosat_is_split_by_its_index_file_in_the_order_of_folders(made):
    data = read_known("eurosat", made("eurosat"))
    assert data.folders == made_sets.EUROSAT
    assert data.class_names[0] == "annual crop land"
    assert data.class_names[-1] == "lake or sea"
    assert summary(data.train, data.folders)[:2] == [
        ("AnnualCrop_1.jpg", "AnnualCrop"),
        ("Forest_1.jpg", "Forest"),
    ]
    assert data.split == "random 80/20, seed 42, index file"


def test_flowers_are_numbered_from_one_and_named_as_published_with_clip(made):
    data = read_known("flowers", made("flowers"))
    assert data.folders == tuple(str(number) for number in range(1, 103))
    assert data.class_names[76] == "passion flower"
    assert summary(data.train, data.class_names) == [
        ("image_00001.jpg", "passion flower"),
        ("image_00003.jpg", "pink primrose"),
    ]
    assert summary(data.test, data.folders) == [("image_00005.jpg", "2"), ("image_00006.jpg", "2")]


def test_food101_is_split_by_its_json_files(made):
    data = read_known("food101", made("food101"))
    assert data.class_names == ("apple pie", "waffles")
    assert sorted(summary(data.train, data.folders)) == [
        ("11.jpg", "waffles"),
        ("12.jpg", "apple_pie"),
        ("13.jpg", "apple_pie"),
    ]


def test_mnist_is_read_from_its_idx_files(made):
    data = read_known("mnist", made("mnist"))
    assert data.class_names[:2] == ("0 - zero", "1 - one")
    assert [s.label for s in data.train] == [5, 0, 4]
    assert [s.label for s in data.test] == [7]
    assert open_picture(data.train[0].picture).getpixel((3, 3)) == (200, 200, 200)


def test_pets_are_trained_on_trainval(made):
    data = read_known("oxford_pets", made("oxford_pets"))
    assert data.class_names == ("Abyssinian", "American Bulldog")
    assert summary(data.train, data.folders) == [
        ("Abyssinian_1.jpg", "Abyssinian"),
        ("american_bulldog_2.jpg", "American Bulldog"),
    ]


def test_cars_are_labelled_from_one_in_their_files(made):
    data = read_known("stanford_cars", made("stanford_cars"))
    assert data.class_names == ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    assert [s.label for s in data.train] == [1, 0]
    assert data.test[0].picture.parent.name == "cars_test"


def test_sun397_is_counted_in_the_order_of_paths(made):
    data = read_known("sun397", made("sun397"))
    assert data.folders == ("abbey", "apartment_building/outdoor")
    assert data.class_names == ("abbey", "apartment building/outdoor")
    assert [name for name, _ in summary(data.train, data.folders)] == [
        "sun_a.jpg", "sun_c.jpg", "sun_e.jpg",
    ]  # fmt: skip
    assert [name for name, _ in summary(data.test, data.folders)] == ["sun_b.jpg", "sun_d.jpg"]


def test_tiny_imagenet_is_tested_on_val_and_named_by_first_synonyms(made):
    data = read_known("tiny_imagenet", made("tiny_imagenet"))
    assert data.folders == ("n01443537", "n02124075", "n03126707")
    assert data.class_names == ("goldfish", "Egyptian cat", "crane")
    assert len(data.train) == 6
    assert summary(data.test, data.class_names) == [
        ("val_0.JPEG", "crane"),
        ("val_1.JPEG", "goldfish"),
    ]


def test_classes_of_tiny_imagenet_with_one_first_synonym_keep_all_of_them(made):
    root = made("tiny_imagenet")
    made_sets.lines(
        root / "tiny-imagenet-200" / "words.txt",
        "n01443537\tcrane, bird",
        "n02124075\tcat",
        "n03126707\tcrane",
    )
    assert read_known("tiny_imagenet", root).class_names == ("crane, bird", "cat", "crane")


# Faults


def test_another_number_of_pictures_than_the_index_counts_is_never_split(tmp_path, monkeypatch):
    made_sets.eurosat(tmp_path)
    made_sets.index_of("eurosat", [True] * 10 + [False] * 11, tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"incomplete: it has 20 pictures, not the 21") as caught:
        read_known("eurosat", tmp_path)
    assert "EuroSAT.zip" in hint_of(caught.value)


def test_the_real_index_refuses_a_small_set(tmp_path):
    made_sets.eurosat(tmp_path)
    with pytest.raises(DataError, match=r"has 20 pictures, not the 27,000"):
        read_known("eurosat", tmp_path)


def test_a_class_that_is_not_unpacked_is_an_incomplete_set(tmp_path, monkeypatch):
    made_sets.eurosat(tmp_path)
    forest = tmp_path / "eurosat" / "2750" / "Forest"
    for picture in forest.iterdir():
        picture.rename(forest.parent / "River" / picture.name)
    forest.rmdir()
    made_sets.index_of("eurosat", [True, False] * 10, tmp_path, monkeypatch)
    with pytest.raises(DataError, match="has 9 classes, not 10"):
        read_known("eurosat", tmp_path)


def test_a_class_of_tiny_imagenet_without_pictures_is_an_incomplete_set(made):
    root = made("tiny_imagenet")
    for picture in (root / "tiny-imagenet-200" / "train" / "n02124075" / "images").iterdir():
        picture.unlink()
    with pytest.raises(DataError, match="no training pictures of 1 classes: n02124075"):
        read_known("tiny_imagenet", root)


def test_a_side_without_pictures_is_an_incomplete_set(made):
    root = made("aircraft")
    made_sets.lines(root / "fgvc-aircraft-2013b" / "data" / "images_variant_test.txt")
    with pytest.raises(DataError, match="it has no test pictures"):
        read_known("aircraft", root)


@pytest.mark.parametrize("task", WRITERS)
def test_a_set_that_is_not_there_says_what_to_put_where(task, tmp_path):
    public = known_tasks()[task].public
    with pytest.raises(DataError, match=f"no pictures for task '{task}'") as caught:
        read_known(task, tmp_path)
    assert str(tmp_path / public.folder) in caught.value.message
    assert str(tmp_path / public.folder) in hint_of(caught.value)
    assert "--data DIR" in hint_of(caught.value)
    assert ("--download" in hint_of(caught.value)) is public.downloadable
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", sorted(set(WRITERS) - {"sun397", "eurosat"}))
def test_a_set_without_one_of_its_files_names_it(made, task):
    root = made(task)
    public = known_tasks()[task].public
    lost = root / public.folder / public.files[-1]
    lost.rename(root / "elsewhere")
    with pytest.raises(DataError, match=r"is incomplete: no ") as caught:
        read_known(task, root)
    assert str(Path(public.files[-1])) in caught.value.message


def test_corrupt_label_files_are_one_error_that_names_the_set(made):
    root = made("food101")
    (root / "food-101" / "meta" / "train.json").write_text("{")
    with pytest.raises(DataError, match=r"food-101: cannot be read as the data set") as caught:
        read_known("food101", root)
    assert "food-101.tar.gz" in hint_of(caught.value)


def test_sides_with_different_classes_are_an_error(made):
    root = made("dtd")
    made_sets.lines(root / "dtd" / "dtd" / "labels" / "test1.txt", "banded/b_2.jpg")
    with pytest.raises(DataError, match="classes differ: zigzagged"):
        read_known("dtd", root)


@pytest.mark.parametrize("task", ["flowers", "stanford_cars"])
def test_labels_in_matlab_files_need_scipy(made, task, monkeypatch):
    root = made(task)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match="scipy is not installed") as caught:
        read_known(task, root)
    assert hint_of(caught.value) == "pip install scipy"


# Custom class names


def test_names_can_be_given_by_the_sets_own_names(made, tmp_path):
    names = tmp_path / "names.json"
    names.write_text('{"apple_pie": "pie", "waffles": "waffle"}')
    assert read_known("food101", made("food101"), class_names=names).class_names == (
        "pie",
        "waffle",
    )


def test_names_can_be_given_in_the_sets_order(made, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("pie\nwaffle\n")
    assert read_known("food101", made("food101"), class_names=names).class_names == (
        "pie",
        "waffle",
    )


@pytest.mark.parametrize("text", ['["pie"]', '["pie", "pie"]', '{"waffles": "waffle"}'])
def test_names_that_do_not_match_are_an_error(made, tmp_path, text):
    names = tmp_path / "names.json"
    names.write_text(text)
    with pytest.raises(DataError, match=r"for [12] classes"):
        read_known("food101", made("food101"), class_names=names)


# The store


def test_a_store_of_arrays_can_be_pickled_and_makes_grey_pictures_rgb():
    array = np.full((2, 4, 6), 9, np.uint8)
    store = pickle.loads(pickle.dumps(ArrayStore(array)))  # noqa: S301 - just made
    picture = store.picture(1)
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    assert picture.getpixel((0, 0)) == (9, 9, 9)
