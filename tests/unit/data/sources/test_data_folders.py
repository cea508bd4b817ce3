"""A data set as folders: layouts, splits, class names, and faults of a folder."""

import json
from pathlib import Path

import pytest

from condu_cli.cli.hints.making import hint_of
from condu_cli.data.class_names import read_class_names
from condu_cli.data.draws import few_shot
from condu_cli.data.sources.folders import read_folder, read_split
from condu_cli.errors import DataError


def touch(root: Path, *names: str) -> Path:
    """Create empty files: the layout is read without decoding a picture."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def many(root: Path, prefix: str, count: int) -> Path:
    return touch(root, *(f"{prefix}/{index:03d}.png" for index in range(count)))


def paths(samples) -> list[Path]:
    return [sample.picture for sample in samples]


@pytest.fixture
def plain(tmp_path):
    """Return two classes of ten pictures, without train and test folders."""
    many(tmp_path / "data", "cat", 10)
    return many(tmp_path / "data", "big_dog", 10)


# Layouts


def test_train_and_test_folders_are_used_as_they_are(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png")
    data = read_folder(tmp_path)
    assert data.split == "folders"
    assert paths(data.train) == [tmp_path / "train/a/1.png", tmp_path / "train/b/2.png"]
    assert paths(data.test) == [tmp_path / "test/a/3.png"]


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_the_test_folder_may_be_called(tmp_path, name):
    touch(tmp_path, "train/a/1.png", "train/b/2.png", f"{name}/b/3.png")
    data = read_folder(tmp_path)
    assert [(s.picture.parent.parent.name, s.label) for s in data.test] == [(name, 1)]


def test_a_train_folder_without_a_test_folder_is_split(tmp_path):
    many(tmp_path, "train/a", 5)
    many(tmp_path, "train/b", 5)
    data = read_folder(tmp_path)
    assert data.split == "random 80/20, seed 42"
    assert (len(data.train), len(data.test)) == (8, 2)


def test_labels_follow_the_folders_in_alphabetical_order(plain):
    data = read_folder(plain)
    assert data.folders == ("big_dog", "cat")
    assert data.class_names == ("big dog", "cat")
    assert {(s.picture.parent.name, s.label) for s in data.train + data.test} == {
        ("big_dog", 0),
        ("cat", 1),
    }


def test_no_picture_is_decoded(plain):
    assert len(read_folder(plain).train) == 16  # the files are empty


# Splits


def test_the_split_is_80_to_20_disjoint_and_complete(plain):
    data = read_folder(plain)
    train, test = set(paths(data.train)), set(paths(data.test))
    assert (len(train), len(test)) == (16, 4)
    assert not train & test
    assert train | test == set(plain.rglob("*.png"))


def test_every_class_is_on_both_sides(plain):
    data = read_folder(plain)
    assert [s.label for s in data.test] == [0, 0, 1, 1]


def test_the_same_seed_gives_the_same_split(plain):
    assert read_folder(plain) == read_folder(plain)
    assert read_folder(plain, split_seed=1) == read_folder(plain, split_seed=1)


def test_another_seed_gives_another_split(plain):
    assert read_folder(plain).test != read_folder(plain, split_seed=1).test


def test_the_split_of_a_class_does_not_depend_on_the_other_classes(plain):
    before = {s.picture for s in read_folder(plain).test if s.picture.parent.name == "cat"}
    many(plain, "aardvark", 3)
    assert {s.picture for s in read_folder(plain).test if s.picture.parent.name == "cat"} == before


def test_a_class_with_one_picture_trains_on_it(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    data = read_folder(tmp_path)
    assert [s.label for s in data.train] == [0, 1]
    assert [s.label for s in data.test] == [1]


# What is ignored


def test_hidden_files_and_folders_do_not_count(plain):
    touch(plain, ".git/1.png", "cat/.DS_Store.png", ".hidden.png")
    assert len(read_folder(plain).train) == 16


def test_folders_without_pictures_are_not_classes(plain):
    touch(plain, "notes/readme.txt")
    (plain / "empty").mkdir()
    assert read_folder(plain).folders == ("big_dog", "cat")


def test_pictures_of_a_class_may_be_in_subfolders(tmp_path):
    many(tmp_path, "a/day1", 5)
    many(tmp_path, "b/day1/morning", 5)
    assert len(read_folder(tmp_path).train) == 8


# Faults of a folder


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        read_folder(tmp_path / "nowhere")


def test_a_file_is_not_a_data_set(tmp_path):
    with pytest.raises(DataError, match="is a file, not a folder"):
        read_folder(touch(tmp_path, "a.png") / "a.png")


@pytest.mark.parametrize("names", [(), ("1.png", "2.png"), ("a/readme.txt", "b/readme.txt")])
def test_a_folder_without_class_folders_is_an_error_that_shows_the_layout(tmp_path, names):
    with pytest.raises(DataError, match="no pictures in subfolders") as caught:
        read_folder(touch(tmp_path, *names))
    assert "DIR/train/CLASS" in hint_of(caught.value)


def test_one_class_is_not_enough(tmp_path):
    with pytest.raises(DataError, match=r"only one class \(lonely\)"):
        read_folder(many(tmp_path, "lonely", 4))


def test_test_classes_that_train_lacks_are_named(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "test/zebra/1.png")
    with pytest.raises(DataError, match="test has 1 classes that train lacks: zebra"):
        read_folder(tmp_path)


# Class names


def with_names(root: Path, content: object, name: str = "classes.json") -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (root / name).write_text(text, encoding="utf-8")
    return root


def test_an_object_maps_folders_to_names(plain):
    with_names(plain, {"cat": "house cat", "big_dog": "Große Dogge", "unused": "nothing"})
    assert read_folder(plain).class_names == ("Große Dogge", "house cat")


def test_a_list_names_the_folders_in_order(plain):
    assert read_folder(with_names(plain, ["dog", "cat"])).class_names == ("dog", "cat")


def test_a_text_file_names_the_folders_line_by_line(plain, tmp_path):
    with_names(tmp_path, "\n dog \n\ncat\n", "names.txt")
    assert read_folder(plain, tmp_path / "names.txt").class_names == ("dog", "cat")


def test_a_file_that_is_given_takes_precedence_over_classes_json(plain, tmp_path):
    with_names(plain, ["not", "these"])
    with_names(tmp_path, ["dog", "cat"], "mine.json")
    assert read_folder(plain, tmp_path / "mine.json").class_names == ("dog", "cat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cat": "cat"}, "no name for 1 classes: big_dog"),
        (["cat"], "1 class names for 2 class folders"),
        (["cat", "cat"], "two classes are called 'cat'"),
        ({"cat": "x", "big_dog": "x"}, "two classes are called 'x'"),
        ("{", "not valid JSON"),
        (["cat", 3], "must be a JSON object or list of strings"),
        (["cat", "  "], "must be a JSON object or list of strings"),
        ("7", "must be a JSON object or list of strings"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(plain, content, message):
    with pytest.raises(DataError, match=message):
        read_folder(with_names(plain, content))


def test_missing_class_names_are_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot read class names"):
        read_class_names(tmp_path / "nowhere.json")


def test_class_names_must_be_utf8(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="cannot read class names"):
        read_class_names(tmp_path / "names.txt")


# Few shots


def test_few_shot_keeps_n_pictures_of_every_class(plain):
    data = few_shot(read_folder(plain), shots=3, seed=0)
    assert [s.label for s in data.train] == [0] * 3 + [1] * 3
    assert set(data.train) <= set(read_folder(plain).train)


def test_few_shot_leaves_the_test_pictures_alone(plain):
    whole = read_folder(plain)
    assert few_shot(whole, 1, 0).test == whole.test


def test_few_shot_is_drawn_by_the_seed(plain):
    whole = read_folder(plain)
    assert few_shot(whole, 3, 5) == few_shot(whole, 3, 5)
    assert len({few_shot(whole, 3, seed).train for seed in range(5)}) > 1


def test_a_class_with_fewer_pictures_gives_all_it_has(plain):
    whole = read_folder(plain)
    assert set(few_shot(whole, 100, 0).train) == set(whole.train)


def test_no_shots_are_refused(plain):
    with pytest.raises(DataError, match="not 0"):
        few_shot(read_folder(plain), 0, 0)


def test_a_picture_added_later_moves_hardly_any_other_to_the_other_side(tmp_path, make_pictures):
    root = make_pictures(tmp_path / "flat", ("blue", "red"), 20, 16)
    before = {sample.picture for sample in read_folder(root).test}
    make_pictures(tmp_path / "more", ("blue",), 1, 16)
    (tmp_path / "more" / "blue" / "00.png").rename(root / "blue" / "new.png")
    after = {sample.picture for sample in read_folder(root).test}
    assert len(before - after) <= 1


def test_a_class_of_trains_is_not_a_split(tmp_path, make_pictures):
    root = make_pictures(tmp_path / "vehicles", ("car", "train"), 5, 16)
    assert read_folder(root).class_names == ("car", "train")


# What is reported


def test_files_that_are_not_pictures_are_counted_and_named(plain):
    touch(plain, "cat/notes.txt", "cat/deep/Thumbs.db", "stray.png", "readme.md", ".hidden.png")
    data = read_folder(plain)
    assert data.ignored == 3
    assert {Path(name).name for name in data.ignored_names} == {
        "notes.txt",
        "Thumbs.db",
        "stray.png",
    }
    assert len(data.train) + len(data.test) == 20


def test_pictures_beside_train_and_test_are_counted(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "a.png", "train/b.png")
    assert read_folder(tmp_path).ignored == 2


def test_only_the_first_of_many_are_named(plain):
    touch(plain, *(f"cat/{i}.txt" for i in range(50)))
    data = read_folder(plain)
    assert (data.ignored, len(data.ignored_names)) == (50, 10)


def test_classes_without_pictures_are_named(plain):
    touch(plain, "notes/readme.txt")
    (plain / "empty").mkdir()
    assert read_folder(plain).empty_classes == ("empty", "notes")


def test_classes_that_differ_only_in_case_are_pointed_out(tmp_path):
    touch(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/Cat/1.png")
    with pytest.raises(DataError, match="test has 1 classes that train lacks: Cat") as caught:
        read_folder(tmp_path)
    assert "'cat', which differs only in case" in hint_of(caught.value)


def test_folders_with_the_same_name_in_words_are_refused(tmp_path):
    with pytest.raises(DataError, match="two classes are called 'big dog'"):
        read_folder(touch(tmp_path, "big_dog/1.png", "big dog/1.png"))


# Splits in other spellings, and layouts that are not clear


@pytest.mark.parametrize(
    ("train", "test"), [("Training", "Testing"), ("TRAIN", "Val"), ("train_set", "test-set")]
)
def test_splits_may_be_spelled_in_any_usual_way(tmp_path, train, test):
    touch(tmp_path, f"{train}/a/1.png", f"{train}/b/2.png", f"{test}/a/3.png")
    data = read_folder(tmp_path)
    assert (data.folders, len(data.train), len(data.test)) == (("a", "b"), 2, 1)
    assert paths(read_split(tmp_path, "test").samples) == [tmp_path / test / "a/3.png"]


def test_a_validation_split_beside_a_test_split_is_named(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "val/b/4.png", "x/5.png")
    data = read_folder(tmp_path)
    assert paths(data.test) == [tmp_path / "test/a/3.png"]
    assert data.omitted == tuple(f"{tmp_path / name}: beside the splits" for name in ("val", "x"))


def test_a_test_split_without_a_training_split_is_refused(tmp_path):
    touch(tmp_path, "cat/1.png", "dog/2.png", "Testing/cat/3.png", "Testing/dog/4.png")
    with pytest.raises(DataError, match="has the split 'Testing', but none to train on") as caught:
        read_folder(tmp_path)
    assert "rename it if it is a class" in hint_of(caught.value)


def test_a_split_twice_is_refused(tmp_path):
    touch(tmp_path, "train/a/1.png", "Training/b/2.png")
    with pytest.raises(DataError, match="both read as the train split"):
        read_folder(tmp_path)


def test_folders_that_all_hold_the_same_folders_are_asked_about(tmp_path):
    touch(tmp_path, *(f"{fold}/{name}/1.png" for fold in ("fold1", "fold2") for name in "ab"))
    with pytest.raises(DataError, match=r"all 2 folders .*hold the same sub-folders \(a, b\)"):
        read_folder(tmp_path)


@pytest.mark.parametrize("layout", ["{c}/images/1.png", "{c}/1.png", "{c}/{c}1/1.png"])
def test_folders_inside_classes_may_be_called_as_they_like(tmp_path, layout):
    touch(tmp_path, *(layout.format(c=name) for name in ("cat", "dog")))
    touch(tmp_path, *(layout.format(c=name).replace("1.png", "2.png") for name in ("cat", "dog")))
    assert read_folder(tmp_path).folders == ("cat", "dog")


# Links, thumbnails, and what may not be read


def test_a_link_brings_no_pictures_of_other_classes(tmp_path):
    root = touch(tmp_path, "train/cat/1.png", "train/dog/2.png", "train/dog/3.png") / "train"
    (root / "cat" / "all").symlink_to(root)
    (root / "cat" / "friend").symlink_to(root / "dog")
    data = read_folder(tmp_path)
    assert [(s.picture.name, s.label) for s in (*data.train, *data.test)].count(("1.png", 0)) == 1
    assert {s.label for s in (*data.train, *data.test) if s.picture.name != "1.png"} == {1}


def test_a_class_may_be_a_link(tmp_path):
    many(tmp_path / "elsewhere", "x", 3)
    many(tmp_path / "data", "cat", 3)
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere" / "x")
    data = read_folder(tmp_path / "data")
    assert (data.folders, len(data.train) + len(data.test)) == (("cat", "dog"), 6)


def test_thumbnails_are_no_class_and_no_pictures(plain):
    touch(plain, "@eaDir/1.png", "cat/@eaDir/2.png", "__MACOSX/cat/3.png")
    data = read_folder(plain)
    assert data.folders == ("big_dog", "cat")
    assert len(data.train) + len(data.test) == 20
    assert set(data.omitted) == {
        f"{plain / name}: not entered" for name in ("@eaDir", "cat/@eaDir", "__MACOSX")
    }


@pytest.mark.parametrize("name", ["cat", "data"])
def test_a_class_or_a_data_set_that_may_not_be_read_is_refused(plain, unreadable, name):
    unreadable(name)
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(permission denied\)"):
        read_folder(plain)
