"""The index files of the splits that the paper's code draws at random."""

import json

import numpy as np
import pytest
import torch
from made_sets import split_record
from torch.utils.data import random_split

from condu_cli.data.seeded_splits import read_split_file, split_file
from condu_cli.data.sources.known_tasks import known_tasks
from condu_cli.errors import DataError

TASKS = ("caltech101", "eurosat", "sun397")


@pytest.mark.parametrize("task", TASKS)
def test_the_index_is_what_the_installed_torch_draws(task):
    count = known_tasks()[task].images
    train = int(0.8 * count)
    generator = torch.Generator().manual_seed(42)
    chosen = random_split(range(count), [train, count - train], generator=generator)[0]
    assert sorted(chosen.indices) == np.flatnonzero(read_split_file(split_file(task))).tolist()


@pytest.mark.parametrize("task", TASKS)
def test_the_index_counts_what_the_catalogue_says(task):
    public = known_tasks()[task].public
    is_train = read_split_file(split_file(task))
    assert is_train.sum() == public.train_images == int(0.8 * len(is_train))
    assert (~is_train).sum() == public.test_images
    assert len(is_train) == known_tasks()[task].images


def test_the_tasks_with_an_index_are_those_whose_split_says_so():
    named = {n for n, t in known_tasks().items() if t.public and "index file" in t.public.split}
    assert named == set(TASKS)


def test_one_bit_per_picture_lowest_first(tmp_path):
    is_train = [True, False, False, True, True, False, False, False, True]
    record = split_record(is_train)
    assert record["bits"] == "GQE="  # 0b00011001, 0b00000001
    file = tmp_path / "index.json"
    file.write_text(json.dumps(record))
    np.testing.assert_array_equal(read_split_file(file), is_train)


@pytest.mark.parametrize(
    "change", [{"bits": "GQI="}, {"count": 17}, {"sha256": "0" * 64}], ids=lambda c: next(iter(c))
)
def test_a_corrupt_index_is_an_error(tmp_path, change):
    file = tmp_path / "index.json"
    record = split_record([True, False] * 5)
    file.write_text(json.dumps({**record, **change}))
    with pytest.raises(DataError, match="corrupt"):
        read_split_file(file)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"bits": "?", "count": 1, "sha256": ""}'])
def test_something_else_is_not_an_index(tmp_path, text):
    file = tmp_path / "index.json"
    file.write_text(text)
    with pytest.raises(DataError, match="not the index file"):
        read_split_file(file)
    with pytest.raises(DataError, match="not the index file"):
        read_split_file(tmp_path / "nowhere.json")
