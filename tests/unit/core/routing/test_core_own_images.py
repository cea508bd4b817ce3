"""Own images against their classes: the closed form, the sample, and what is stored."""

import numpy as np
import pytest

from condu_cli.core.routing import own_images
from condu_cli.core.routing.own_images import OwnImages

RNG = np.random.default_rng(0)


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def images(count, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(count, 6)) + 1), rng.integers(0, classes, count)


def sums_of(features, labels, classes=3):
    sums = np.zeros((classes, features.shape[1]))
    np.add.at(sums, labels, features)
    return sums, np.bincount(labels, minlength=classes)


def share_below(record, value):
    return (1 + np.searchsorted(record, value, side="right")) / (1 + len(record))


def measured(features, labels, classes=3, batch=None):
    own = OwnImages()
    for start in range(0, len(labels), batch or len(labels)):
        part = slice(start, start + (batch or len(labels)))
        own.add(features[part], labels[part])
    return own.similarities(*sums_of(features, labels, classes))


def test_every_image_is_left_out_of_the_mean_of_its_own_class():
    features, labels = images(30)
    wanted = []
    for index in range(30):
        others = np.arange(30) != index
        sums, counts = sums_of(features[others], labels[others])
        wanted.append((features[index] @ unit(sums[counts > 0]).T).max())
    assert measured(features, labels) == pytest.approx(np.sort(wanted), abs=1e-6)


def test_an_only_image_is_compared_with_the_other_classes_alone():
    features = unit(np.array([[1.0, 0.1], [0.1, 1.0], [0.0, 1.0]]))
    found = measured(features, np.array([0, 1, 1]), classes=3)
    mean_of_one = unit(features[1] + features[2])
    assert found[0] == pytest.approx(features[0] @ mean_of_one, abs=1e-6)


def test_one_image_in_all_is_like_no_class():
    assert measured(np.array([[1.0, 0.0]]), np.array([0])).tolist() == [-1.0]


def test_two_images_that_are_equal_are_as_similar_as_can_be():
    features = np.array([[0.6, 0.8], [0.6, 0.8]])
    assert measured(features, np.array([0, 0])) == pytest.approx([1.0, 1.0])


def test_nothing_added_is_nothing_measured():
    assert OwnImages().similarities(np.zeros((3, 6)), np.zeros(3, np.int64)).shape == (0,)


@pytest.mark.parametrize("batch", [1, 7, 40, 100])
def test_the_sample_is_evenly_spread_and_independent_of_the_batches(monkeypatch, batch):
    monkeypatch.setattr(own_images, "MEASURED", 16)
    features, labels = images(100)
    own = OwnImages()
    for start in range(0, 100, batch):
        own.add(features[start : start + batch], labels[start : start + batch])
    kept = np.concatenate([numbers for numbers, _, _ in own._parts])
    assert kept.tolist() == list(range(0, 100, 8))
    assert np.array_equal(measured(features, labels, batch=batch), measured(features, labels))


@pytest.mark.parametrize("count", [9, 10, 57, 400])
def test_what_is_stored_are_quantiles_of_what_is_measured(monkeypatch, count):
    """A picture has the same share below it among those stored, to within one of them."""
    features, labels = images(count)
    full = measured(features, labels)
    monkeypatch.setattr(own_images, "STORED", 9)
    stored = measured(features, labels)
    assert len(stored) == min(count, 9)
    assert np.isin(stored, full).all()
    for value in np.linspace(full[0] - 0.1, full[-1] + 0.1, 50):
        of_all, of_stored = (share_below(record, value) for record in (full, stored))
        assert abs(of_all - of_stored) <= 1 / 10 + 1e-9
        assert of_stored >= of_all - 1e-9 or count <= 9  # never more readily unknown
