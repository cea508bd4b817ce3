"""The base model's features of a task's pictures are computed once and kept."""

import os

import numpy as np
import pytest
from PIL import Image

from condu_cli.backbone.base_models import load_base
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.sources.folders import read_folder
from condu_cli.workflows.learning import base_features
from condu_cli.workflows.learning.prototyping import build_task_prototypes

NAMES = ("blue", "red")
TEMPLATES = ("a photo of a {}.",)


@pytest.fixture
def samples(tmp_path, make_pictures, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return read_folder(make_pictures(tmp_path / "colours", NAMES, 15, 16)).train


@pytest.fixture
def computed(monkeypatch):
    """Count the pictures that the base model is shown."""
    counts = []
    features = base_features.image_features

    def count(base, pixels):
        counts.append(len(pixels))
        return features(base, pixels)

    monkeypatch.setattr(base_features, "image_features", count)
    return counts


def built(samples, **options):
    pictures = PictureSet(samples, 8)
    prototypes = build_task_prototypes(load_base("tiny"), pictures, NAMES, TEMPLATES, **options)
    return prototypes, pictures


def same(one, other):
    return all(
        np.array_equal(one.to_arrays()[name], other.to_arrays()[name]) for name in one.to_arrays()
    )


def test_the_second_time_nothing_is_computed_and_the_prototypes_are_the_same(samples, computed):
    first, _ = built(samples)
    assert sum(computed) == len(samples)
    second, pictures = built(samples)
    assert sum(computed) == len(samples)
    assert same(first, second)
    assert pictures.cached  # the training reads them anyway


def test_a_picture_that_has_changed_is_seen_again(samples, computed):
    built(samples)
    Image.new("RGB", (16, 16), "white").save(samples[0].picture)
    os.utime(samples[0].picture, (1, 1))
    before = sum(computed)
    built(samples)
    assert sum(computed) == before + len(samples)


def test_pictures_that_change_places_are_seen_again(samples, computed):
    built(samples)
    one, other = samples[0].picture, samples[-1].picture
    state = one.stat()
    aside = one.with_name("aside.png")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    for path in (one, other):
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    before = sum(computed)
    built(samples)
    assert sum(computed) == before + len(samples)


def test_prototypes_of_few_pictures_are_kept_by_themselves(samples, computed):
    few, _ = built(samples, per_class=3)
    assert sum(computed) == 6
    again, _ = built(samples, per_class=3)
    assert sum(computed) == 6
    assert same(few, again)
    built(samples)
    assert sum(computed) == 6 + len(samples)


def test_one_that_could_not_be_read_is_computed_when_it_can(samples, computed, monkeypatch):
    # As if a disk failed for a moment: the file itself shows no sign of it.
    monkeypatch.setattr(base_features, "_state", base_features._name)
    path = samples[0].picture
    content = path.read_bytes()
    path.write_bytes(b"x")
    built(samples)
    path.write_bytes(content)
    before = sum(computed)
    whole, _ = built(samples)
    assert sum(computed) == before + 1
    assert int(whole.counts.sum()) == len(samples)


def test_a_corrupt_file_is_computed_again(samples, computed):
    first, _ = built(samples)
    (file,) = base_features.CACHE.folder.glob("*.bin")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    second, _ = built(samples)
    assert sum(computed) == 2 * len(samples)
    assert same(first, second)
