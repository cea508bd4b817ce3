"""The classifier in closed form, and leaving one picture out of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.core import heads
from condu_cli.core.heads import Moments, fit_head


def leave_one_out(features, labels, classes):
    return Moments.of(features, labels, classes).left_out(features, labels)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def drawn(seed, counts, width=5):
    """Clouds of unit features around a mean per class; counts[c] pictures of class c."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = rng.normal(size=(len(counts), width))
    return unit(centres[labels] + 0.7 * rng.normal(size=(len(labels), width))), labels


def by_the_formula(features, labels, classes):
    """Scores as a function, straight from the definition: one covariance, one inverse."""
    total, width = features.shape
    means = np.array([features[labels == c].mean(axis=0) for c in range(classes)])
    away = features - means[labels]
    freedom = total - classes
    sigma = away.T @ away / freedom if freedom else np.zeros((width, width))
    precision = np.eye(width)
    if np.trace(sigma) > 0:
        shrunk = ((total - 1) * sigma + np.trace(sigma) * np.eye(width)) / (total - 1 + width)
        precision = np.linalg.inv(shrunk)
    share = np.bincount(labels, minlength=classes) / total

    def scores(x):
        return np.array(
            [
                m @ precision @ x - 0.5 * m @ precision @ m + np.log(p)
                for m, p in zip(means, share, strict=True)
            ]
        )

    return scores


def test_a_head_is_the_discriminant_of_its_definition():
    features, labels = drawn(0, [7, 3, 12])
    head = fit_head(features, labels, 3)
    expected = by_the_formula(features, labels, 3)
    others, _ = drawn(1, [4, 4, 4])
    assert np.allclose(head.scores(others), [expected(x) for x in others], rtol=1e-4, atol=1e-4)
    assert head.weights.dtype == head.bias.dtype == np.float32


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 6), min_size=2, max_size=4).filter(lambda n: sum(n) > 2),
)
def test_leaving_one_out_equals_as_many_fits(seed, counts):
    features, labels = drawn(seed, counts)
    classes = len(counts)
    found = leave_one_out(features, labels, classes)
    for place, (x, label) in enumerate(zip(features, labels, strict=True)):
        rest = np.arange(len(labels)) != place
        if counts[label] == 1:
            assert found[place, label] == -np.inf
            continue
        expected = by_the_formula(features[rest], labels[rest], classes)(x)
        assert np.allclose(found[place], expected, rtol=1e-6, atol=1e-6)


def test_the_only_picture_of_a_class_leaves_heads_without_that_class():
    features, labels = drawn(3, [4, 1, 5])
    found = leave_one_out(features, labels, 3)
    rest = labels != 1
    expected = by_the_formula(features[rest], np.where(labels[rest] == 2, 1, 0), 2)(features[4])
    assert np.allclose(found[4, [0, 2]], expected)


def test_the_result_does_not_depend_on_blocks(monkeypatch):
    features, labels = drawn(4, [9, 8])
    whole = leave_one_out(features, labels, 2)
    monkeypatch.setattr(heads, "BLOCK", 3)
    assert np.allclose(leave_one_out(features, labels, 2), whole)


def test_one_picture_of_each_class_is_decided_by_the_nearest_mean():
    features, labels = drawn(5, [1, 1, 1])
    head = fit_head(features, labels, 3)
    assert (head.scores(features).argmax(axis=1) == labels).all()
    assert np.allclose(head.weights, features)


def test_a_rare_class_is_not_lost():
    features, labels = drawn(6, [400, 8], width=12)
    head = fit_head(features, labels, 2)
    fresh, truth = drawn(6, [400, 400], width=12)
    found = head.scores(fresh[len(labels) - 8 :]).argmax(axis=1)
    rare = truth[len(labels) - 8 :] == 1
    assert (found[rare] == 1).mean() > 0.9


def test_equal_pictures_do_not_divide_by_zero():
    features = np.repeat(np.eye(3)[:2], 3, axis=0)
    labels = np.repeat([0, 1], 3)
    assert (fit_head(features, labels, 2).scores(features).argmax(axis=1) == labels).all()
    assert (leave_one_out(features, labels, 2).argmax(axis=1) == labels).all()


@pytest.mark.parametrize(
    ("features", "labels", "classes"),
    [
        (np.eye(3), np.array([0, 1, 1]), 3),
        (np.eye(3), np.array([0, 1]), 2),
        (np.eye(3)[0], np.array([0]), 1),
    ],
)
def test_a_class_without_pictures_and_wrong_shapes_are_refused(features, labels, classes):
    with pytest.raises(ValueError, match=r"picture|features"):
        fit_head(features, labels, classes)
