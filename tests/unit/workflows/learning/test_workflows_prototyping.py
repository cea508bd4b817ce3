"""Prototypes in one pass over the training pictures."""

import numpy as np
import pytest

from condu_cli.backbone.base_models import load_base
from condu_cli.data.pictures import decoding
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.scanning import ReadingRules
from condu_cli.data.sources.folders import read_folder
from condu_cli.errors import DataError, UsageError
from condu_cli.workflows.learning import base_features, prototyping
from condu_cli.workflows.learning.prototyping import build_task_prototypes, first_of_each_class

NAMES = ("blue", "red")
TEMPLATES = ("a photo of a {}.",)


@pytest.fixture(scope="module")
def base():
    return load_base("tiny")


@pytest.fixture
def samples(tmp_path, make_pictures):
    data = read_folder(make_pictures(tmp_path / "colours", NAMES, 15, 16))
    return (*data.train, *data.test)


def build(base, samples, **options):
    rules = ReadingRules(workers=0, max_unreadable=20)
    pictures = PictureSet(samples, 8, rules=rules)
    return build_task_prototypes(base, pictures, NAMES, TEMPLATES, **options), pictures


def test_every_picture_is_decoded_once_and_ready_for_training(base, samples, monkeypatch):
    opened = []
    real = decoding.open_picture
    monkeypatch.setattr(decoding, "open_picture", lambda p: opened.append(p) or real(p))
    prototypes, pictures = build(base, samples)
    assert opened == [sample.picture for sample in samples]
    assert prototypes.counts.tolist() == [15, 15]
    assert pictures.cached


def test_what_is_kept_for_training_does_not_change_the_prototypes(base, samples):
    small, _ = build(base, samples)
    large = build_task_prototypes(base, PictureSet(samples), NAMES, TEMPLATES)
    for name, array in small.to_arrays().items():
        assert np.array_equal(array, large.to_arrays()[name]), name


def test_n_pictures_of_each_class_are_shown_but_all_are_read(base, samples):
    prototypes, pictures = build(base, samples, per_class=4)
    assert prototypes.counts.tolist() == [4, 4]
    assert len(pictures) == 30
    alone, _ = build(base, first_of_each_class(samples, 4))
    assert np.allclose(prototypes.image, alone.image, atol=1e-6)


def test_the_choice_depends_neither_on_order_nor_on_the_folder(samples, tmp_path, make_pictures):
    moved = read_folder(make_pictures(tmp_path / "else" / "where", NAMES, 15, 16))
    chosen = [
        first_of_each_class(s, 4) for s in (samples, samples[::-1], (*moved.train, *moved.test))
    ]
    names = [{(s.picture.name, s.label) for s in part} for part in chosen]
    assert names[0] == names[1] == names[2]


def test_others_step_in_for_chosen_pictures_that_cannot_be_read(base, samples):
    for sample in first_of_each_class(samples, 2):
        sample.picture.write_text("text")
    prototypes, pictures = build(base, samples, per_class=2)
    assert prototypes.counts.tolist() == [2, 2]
    alone, _ = build(base, first_of_each_class(pictures.samples, 2))
    assert np.allclose(prototypes.image, alone.image, atol=1e-6)


def test_batches_are_full_whatever_is_chosen(base, samples, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # an empty cache
    monkeypatch.setattr(prototyping, "BATCH", 3)
    sizes = []
    real = base_features.image_features
    monkeypatch.setattr(
        base_features,
        "image_features",
        lambda b, pixels: sizes.append(len(pixels)) or real(b, pixels),
    )
    build(base, samples, per_class=4)
    assert sizes == [3, 3, 2]


def test_progress_counts_every_picture(base, samples):
    seen = []
    build(base, samples, on_progress=seen.append)
    assert [(p.stage, p.done, p.total) for p in seen] == [
        ("prototypes", done, 30) for done in range(1, 31)
    ]


def test_no_pictures_are_an_error(base):
    with pytest.raises(DataError, match="there are no training pictures"):
        build(base, ())


def test_none_per_class_is_refused(base, samples):
    with pytest.raises(UsageError, match="not 0"):
        build(base, samples, per_class=0)
