"""Folding a head into the map to an embedding that is compared with class texts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.core.folding import WEIGHTS, best_mixture, fold, unscaled
from condu_cli.core.heads import Head, Moments, fit_head
from condu_cli.core.metrics import softmax


def leave_one_out(features, labels, classes):
    return Moments.of(features, labels, classes).left_out(features, labels)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def some_texts(seed, classes, width):
    """Unit texts that share a large common part, as class names in one template do."""
    rng = np.random.default_rng(seed)
    return unit(2 * rng.normal(size=width) + rng.normal(size=(classes, width)))


def some_head(seed, classes, width):
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(classes, width)), rng.normal(size=classes)
    return Head(weights.astype(np.float32), bias.astype(np.float32))


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(8, 12), st.integers(1, 20))
def test_a_folded_head_answers_as_the_head(seed, classes, embedding, count):
    texts, head = some_texts(seed, classes, embedding), some_head(seed + 1, classes, 6)
    x = unit(np.random.default_rng(seed + 2).normal(size=(count, 6)))
    folding = fold(texts, head, 0.3)
    found = (x @ folding.weights.T + folding.offset) @ texts.T
    wanted = 0.3 * head.scores(x).astype(np.float64)
    differences = found - found[:, :1], wanted - wanted[:, :1]
    assert np.allclose(*differences, atol=1e-4)


def test_the_map_of_scores_is_that_of_features():
    texts, head = some_texts(0, 5, 9), some_head(1, 5, 7)
    x = unit(np.random.default_rng(2).normal(size=(4, 7)))
    folding = fold(texts, head, 1.0)
    assert np.allclose(
        unscaled(texts, head.scores(x)), x @ folding.weights.T + folding.offset, atol=1e-5
    )


@pytest.mark.parametrize("texts", [some_texts(0, 6, 4), np.repeat(some_texts(0, 3, 9), 2, axis=0)])
def test_more_classes_than_dimensions_and_equal_texts_lose_something(texts):
    head = some_head(1, 6, 7)
    x = unit(np.random.default_rng(2).normal(size=(200, 7)))
    folding = fold(texts, head, 1.0)
    found = ((x @ folding.weights.T + folding.offset) @ texts.T).argmax(axis=1)
    assert (found == head.scores(x).argmax(axis=1)).mean() < 1


def scene(base_knows, count=60, classes=4, width=16, embedding=8):
    """Texts, base embeddings, labels and leave-one-out scores of pictures of some classes."""
    rng = np.random.default_rng(0)
    texts = some_texts(1, classes, embedding)
    labels = np.arange(count) % classes
    noise = rng.normal(size=(count, embedding))
    base = texts[labels] + (0.1 if base_knows else 10.0) * noise
    centres = rng.normal(size=(classes, width))
    spread = 3.0 if base_knows else 0.7
    features = unit(centres[labels] + spread * rng.normal(size=(count, width)))
    return texts, base, leave_one_out(features, labels, classes), labels


def test_the_head_decides_where_the_base_model_knows_nothing():
    texts, base, scores, labels = scene(base_knows=False)
    found = best_mixture(texts, base, scores, labels, 15.0)
    assert found.accuracy == pytest.approx((scores.argmax(axis=1) == labels).mean(), abs=0.05)


def test_a_base_model_that_knows_more_than_the_head_is_heard():
    texts, base, scores, labels = scene(base_knows=True)
    alone = (scores.argmax(axis=1) == labels).mean()
    found = best_mixture(texts, base, scores, labels, 15.0)
    assert found.accuracy > alone + 0.1


def test_the_temperature_makes_the_logits_as_sure_as_they_deserve():
    texts, base, scores, labels = scene(base_knows=True)
    found = best_mixture(texts, base, scores, labels, 15.0)
    logits = 15.0 * unit(base + found.factor * unscaled(texts, scores)) @ texts.T

    def loss(factor):
        return -np.log(softmax(factor * logits)[np.arange(len(labels)), labels]).mean()

    assert loss(1.0) == pytest.approx(found.loss)
    assert loss(found.temperature) < min(loss(0.5 * found.temperature), loss(1.0))
    assert loss(found.temperature) < loss(2 * found.temperature)


def test_chance_does_not_lessen_the_heads_part():
    """A gain of one picture does not count: the factor is the largest, as without any gain."""
    texts, base, scores, labels = scene(base_knows=False)
    found = best_mixture(texts, base, scores, labels, 15.0)
    added = unscaled(texts, scores)
    relative = found.factor * np.linalg.norm(added, axis=1).mean()
    assert relative == pytest.approx(WEIGHTS[-1] * np.linalg.norm(base, axis=1).mean())


def test_a_class_that_was_left_out_counts_as_its_pictures_lowest():
    features = unit(np.random.default_rng(3).normal(size=(7, 5)))
    labels = np.array([0, 0, 0, 1, 2, 2, 2])
    scores = leave_one_out(features, labels, 3)
    assert np.isneginf(scores).any()
    found = best_mixture(some_texts(4, 3, 6), np.ones((7, 6)), scores, labels, 15.0)
    assert np.isfinite(found.loss)


def test_few_pictures_make_a_head_that_folds():
    features = unit(np.random.default_rng(5).normal(size=(6, 4)))
    labels = np.arange(6) % 3
    head = fit_head(features, labels, 3)
    texts = some_texts(6, 3, 5)
    folding = fold(texts, head, 2.0)
    answers = ((features @ folding.weights.T + folding.offset) @ texts.T).argmax(axis=1)
    assert (answers == head.scores(features).argmax(axis=1)).all()
