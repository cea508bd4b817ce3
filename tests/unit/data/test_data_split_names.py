"""Spellings of splits."""

from pathlib import Path

import pytest

from condu_cli.data.split_names import TEST, TRAIN, VALIDATION, by_split, split_of
from condu_cli.errors import DataError


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (TRAIN, ["train", "Training", "TRAIN", "train_set", "training-images", "Train Set"]),
        (TEST, ["test", "Testing", "test_set", "TestImages"]),
        (VALIDATION, ["val", "Valid", "validation", "dev", "val_data"]),
        (None, ["trains", "tester", "validated", "cat", "", "train2", "protest", "trainer"]),
    ],
)
def test_names_mean_a_split_in_any_usual_spelling(kind, names):
    assert {name: split_of(name) for name in names} == dict.fromkeys(names, kind)


def test_each_split_has_one_name():
    names = ["cat", "Training", "test", "val"]
    assert by_split(names, Path("x")) == {TRAIN: "Training", TEST: "test", VALIDATION: "val"}
    with pytest.raises(DataError, match="x: 'Train' and 'training' both read as the train split"):
        by_split(["training", "Train"], Path("x"))
