"""Known classes, matched by their names, or all by their folders."""

import pytest

from condu_cli.data.class_names import comparable, name_unknown, places_among, unknown_among

KNOWN = (("blue sea", "red rose"), ("sea", "rose"))


def test_classes_are_matched_by_their_names_first():
    assert places_among(KNOWN, (("red rose", "blue sea"), ("x", "y"))) == [1, 0]


def test_all_are_matched_by_their_folders_where_one_name_is_unknown():
    assert places_among(KNOWN, (("blue sea", "a rose"), ("sea", "rose"))) == [0, 1]
    assert places_among(KNOWN, (("rose",), ("rose",))) == [1]


def test_one_unknown_class_matches_none():
    assert places_among(KNOWN, (("blue sea", "snow"), ("sea", "snow"))) is None
    assert places_among((("a",), ()), (("b",), ("b",))) is None


def test_the_first_unknown_is_named_and_the_others_counted():
    assert name_unknown(unknown_among(("a",), ("b", "a"))) == "'b'"
    assert name_unknown(unknown_among(("a",), ("b", "a", "c", "d"))) == "'b' (and 2 more)"


@pytest.mark.parametrize("label", ["golden retriever", "Golden_Retriever", " golden \t retriever "])
def test_labels_are_compared_without_case_underscores_and_extra_spaces(label):
    assert comparable(label) == "golden retriever"


@pytest.mark.parametrize("label", ["golden-retriever", "goldenretriever", "retriever golden"])
def test_other_spellings_are_other_labels(label):
    assert comparable(label) != "golden retriever"
