"""Routers: which task a picture belongs to."""

import numpy as np
import pytest
from strategies import prototypes_of

from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.core.routing.routers import PaperRouter, Query, rank, router_for


def features(seed, rows, columns):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


TEXT, IMAGES, POOLED = features(0, 3, 8), features(1, 20, 8), features(2, 20, 5)
LABELS = np.random.default_rng(3).integers(0, 2, 20)  # class 2 has no pictures
PROTOTYPES = prototypes_of(TEXT, IMAGES, POOLED, LABELS)

EYE = np.eye(4, dtype=np.float32)


def task(text_rows, pooled_rows, counts=None):
    counts = np.ones(len(text_rows), dtype=np.int64) if counts is None else np.array(counts)
    zeros = np.zeros((len(text_rows), 4), dtype=np.float32)
    return Prototypes(EYE[text_rows], zeros, EYE[pooled_rows] * (counts > 0)[:, None], counts)


def test_paper_scores_a_task_by_its_best_prototype():
    other = prototypes_of(features(9, 6, 8), IMAGES, POOLED, LABELS)
    queries = features(5, 11, 8)
    scores = router_for("paper", [PROTOTYPES, other]).scores(Query(queries, POOLED[:11]))
    for column, prototypes in enumerate([PROTOTYPES, other]):
        wanted = (unit(queries) @ unit(prototypes.text + prototypes.image).T).max(axis=1)
        assert scores[:, column] == pytest.approx(wanted, abs=1e-6)


def test_pooled_looks_at_pooled_features_only():
    tasks = [task([0, 1], [0, 1]), task([2, 3], [2, 3])]
    query = Query(image_features=EYE[[0, 2]], pooled=EYE[[3, 1]])
    assert rank(router_for("paper", tasks).scores(query), 1).tolist() == [[0], [1]]
    assert rank(router_for("pooled", tasks).scores(query), 1).tolist() == [[1], [0]]


def test_a_class_without_images_never_wins_in_pooled():
    tasks = [task([0, 1], [0, 1], counts=[1, 0]), task([2], [2])]
    # The cosine is -1 with class 0 and task 1, and 0 with a zero prototype.
    query = Query(EYE[:1], -(EYE[:1] + EYE[2:3]))
    assert router_for("pooled", tasks).scores(query)[0] == pytest.approx([-(0.5**0.5)] * 2)


def test_a_task_without_images_comes_last_in_pooled():
    tasks = [task([0], [0], counts=[0]), task([1], [1])]
    scores = router_for("pooled", tasks).scores(Query(EYE[:1], EYE[:1]))
    assert scores.tolist() == [[-1.0, 0.0]]


def test_without_any_image_the_paper_router_decides():
    tasks = [task([0], [0], counts=[0]), task([1], [1], counts=[0])]
    scores = router_for("pooled", tasks).scores(Query(EYE[1:2], EYE[:1]))
    assert scores.tolist() == [[0.0, 1.0]]


def test_no_images_give_no_scores():
    query = Query(np.zeros((0, 8), np.float32), np.zeros((0, 5), np.float32))
    for name in ("paper", "pooled"):
        assert router_for(name, [PROTOTYPES]).scores(query).shape == (0, 1)


def test_routers_refuse_what_they_cannot_score():
    with pytest.raises(ValueError, match="unknown router 'magic'; known: paper, pooled"):
        router_for("magic", [PROTOTYPES])
    for router in ("pooled", PaperRouter):
        with pytest.raises(ValueError, match="at least one task"):
            router_for(router, [])
    router = router_for("pooled", [PROTOTYPES])
    with pytest.raises(ValueError, match="width"):
        router.scores(Query(IMAGES, IMAGES))
    with pytest.raises(ValueError, match="NaN"):
        router.scores(Query(IMAGES, POOLED * np.nan))


def test_rank_puts_the_best_first_and_breaks_ties_by_the_earlier_task():
    scores = np.array([[0.1, 0.9, 0.5], [0.3, 0.3, 0.3], [0.2, 0.7, 0.7]])
    assert rank(scores, 2).tolist() == [[1, 2], [0, 1], [1, 2]]
    assert rank(scores, 9).shape == (3, 3)
    with pytest.raises(ValueError, match="must be at least 1"):
        rank(scores, 0)
