"""Known classes, matched by their names, or all by their folders."""

import json
import os

import pytest

from condu_cli.cli.hints.making import hint_of
from condu_cli.data.class_names import (
    alike,
    class_list,
    class_names_for,
    comparable,
    name_unknown,
    places_among,
    unknown_among,
)
from condu_cli.errors import DataError

KNOWN = (("blue sea", "red rose"), ("sea", "rose"))


def test_classes_are_matched_by_their_names_first():
    assert places_among(KNOWN, (("red rose", "blue sea"), ("x", "y"))) == [1, 0]


def test_all_are_matched_by_their_folders_where_one_name_is_unknown():
    assert places_among(KNOWN, (("blue sea", "a rose"), ("sea", "rose"))) == [0, 1]
    assert places_among(KNOWN, (("rose",), ("rose",))) == [1]


def test_one_unknown_class_matches_none():
    assert places_among(KNOWN, (("blue sea", "snow"), ("sea", "snow"))) is None
    assert places_among((("a",), ()), (("b",), ("b",))) is None


# Accents: one character, as keyboards and most systems write them, or two, as macOS does in folders

ONE, TWO = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("known", "found"), [(ONE, TWO), (TWO, ONE)])
def test_a_class_is_found_however_its_accents_are_written(known, found):
    names = ((known, "tea"), (known, "tea"))
    assert places_among(names, (("tea", found), ("tea", found))) == [1, 0]
    assert unknown_among((known,), (found,)) == []
    assert comparable(known) == comparable(found)


def test_an_older_registry_may_hold_both_spellings():
    names = (ONE, TWO)
    assert places_among((names, names), (names, names)) == [0, 1]
    assert places_among((names, names), ((TWO,), (TWO,))) == [1]


def test_the_name_of_a_class_has_composed_accents(tmp_path):
    assert class_names_for([TWO, "tea"], None, tmp_path) == (ONE, "tea")
    (tmp_path / "names.json").write_text(json.dumps({ONE: TWO, "tea": "tea"}))
    names = class_names_for([TWO, "tea"], tmp_path / "names.json", tmp_path)
    assert names == (ONE, "tea")
    (tmp_path / "names.txt").write_text(f"{TWO}\ntea\n")
    assert class_list(tmp_path / "names.txt") == ((ONE, "tea"), (ONE, "tea"))


def test_two_keys_that_look_the_same_are_refused(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({ONE: "one", TWO: "two"}))
    with pytest.raises(DataError, match="spelling of accents alone"):
        class_list(tmp_path / "names.json")


def test_two_folders_that_look_the_same_are_refused(tmp_path):
    with pytest.raises(DataError, match=f"two classes are called '{ONE}'"):
        class_names_for([TWO, ONE], None, tmp_path)


def test_names_that_differ_in_case_alone_are_paired():
    assert alike(("Cat", "dog", "cat", "sea lion", "sea_lion")) == [
        ("Cat", "cat"),
        ("sea lion", "sea_lion"),
    ]
    assert alike(("cat", "dog")) == []


def test_the_first_unknown_is_named_and_the_others_counted():
    assert name_unknown(unknown_among(("a",), ("b", "a"))) == "'b'"
    assert name_unknown(unknown_among(("a",), ("b", "a", "c", "d"))) == "'b' (and 2 more)"


@pytest.mark.parametrize("label", ["golden retriever", "Golden_Retriever", " golden \t retriever "])
def test_labels_are_compared_without_case_underscores_and_extra_spaces(label):
    assert comparable(label) == "golden retriever"


@pytest.mark.parametrize("label", ["golden-retriever", "goldenretriever", "retriever golden"])
def test_other_spellings_are_other_labels(label):
    assert comparable(label) != "golden retriever"


# Text that a registry could store, but not hand on

ODD = [os.fsdecode(b"caf\xe9"), "a\tb", "\x1b[2J", "\ud800", "a\u2028b"]


@pytest.mark.parametrize("name", ODD)
def test_a_class_folder_is_named_in_text(tmp_path, name):
    with pytest.raises(DataError, match=r"the class '.*' has") as caught:
        class_names_for(("dog", name), None, tmp_path)
    assert "rename it" in hint_of(caught.value)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("form", [list, dict])
def test_names_in_a_file_are_text(tmp_path, name, form):
    file = tmp_path / "names.json"
    file.write_text(json.dumps(["dog", name] if form is list else {"a": "dog", "b": name}))
    with pytest.raises(DataError, match=r"the class name '.*' has"):
        class_names_for(("a", "b"), file, tmp_path)
    with pytest.raises(DataError, match=r"the class name '.*' has"):
        class_list(file)


def test_good_names_do_not_save_an_odd_folder(tmp_path):
    file = tmp_path / "names.json"
    file.write_text('["dog", "cat"]')
    with pytest.raises(DataError, match=r"the class 'a.tb' has"):
        class_names_for(("a", "a\tb"), file, tmp_path)


# Names by position


def named(tmp_path, folders, names):
    file = tmp_path / "names.json"
    file.write_text(json.dumps(names))
    return class_names_for(folders, file, tmp_path)


def test_folders_that_are_numbers_take_names_by_value(tmp_path):
    folders = ("1", "10", "11", "12", *"23456789")
    months = [f"month {number}" for number in range(1, 13)]
    assert named(tmp_path, folders, months) == tuple(f"month {folder}" for folder in folders)
    assert named(tmp_path, ("007", "08", "1"), ["one", "seven", "eight"]) == (
        "seven",
        "eight",
        "one",
    )


def test_words_take_names_alphabetically(tmp_path):
    assert named(tmp_path, ("ant", "bee"), ["small", "busy"]) == ("small", "busy")
    assert named(tmp_path, ("c1", "c2"), ["one", "two"]) == ("one", "two")


@pytest.mark.parametrize(
    ("folders", "names", "why"),
    [
        (("c1", "c10", "c2"), ["one", "two", "ten"], "is 'c2' before or after 'c10'"),
        (("Banana", "apple"), ["x", "y"], "is 'apple' before or after 'Banana'"),
        (("01", "1"), ["x", "y"], "is '1' before or after '01'"),
        (("cat", "dog"), ["dog", "cat"], "in its order, 'cat' would be called 'dog'"),
        (("big_dog", "cat"), ["a cat", "Big Dog"], "'cat' would be called 'Big Dog'"),
    ],
)
def test_pairing_that_may_be_meant_otherwise_is_refused(tmp_path, folders, names, why):
    with pytest.raises(DataError, match="is not clear") as caught:
        named(tmp_path, folders, names)
    assert why in caught.value.message
    assert "Map each class to its name" in hint_of(caught.value)
    mapping = dict(zip(folders, names, strict=True))
    assert named(tmp_path, folders, mapping) == tuple(names)
