"""Prototypes, routers and figures of merit."""

import dataclasses

import numpy as np
import pytest

from condu_cli.core.layout import InvalidStateError
from condu_cli.core.metrics import accuracy, sequence_metrics, softmax
from condu_cli.core.prototypes import PrototypeBuilder, Prototypes, build_prototypes
from condu_cli.core.routing import Query, rank, router_by_name


def features(seed, rows, columns):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


TEXT, IMAGES, POOLED = features(0, 3, 8), features(1, 20, 8), features(2, 20, 5)
LABELS = np.random.default_rng(3).integers(0, 2, 20)  # class 2 has no image
PROTOTYPES = build_prototypes(TEXT, IMAGES, POOLED, LABELS)

# Prototypes


def test_prototypes_are_means_of_unit_features():
    for k in (0, 1):
        mine = k == LABELS
        assert PROTOTYPES.image[k] == pytest.approx(unit(IMAGES[mine]).mean(axis=0), abs=1e-6)
        assert PROTOTYPES.pooled[k] == pytest.approx(unit(POOLED[mine]).mean(axis=0), abs=1e-6)
        assert PROTOTYPES.counts[k] == mine.sum()
    assert np.linalg.norm(PROTOTYPES.text, axis=1) == pytest.approx([1, 1, 1], abs=1e-6)
    assert np.array_equal(PROTOTYPES.paper, PROTOTYPES.text + PROTOTYPES.image)


def test_a_class_without_images_has_zeros_and_count_zero():
    assert PROTOTYPES.counts[2] == 0
    assert not PROTOTYPES.image[2].any()
    assert not PROTOTYPES.pooled[2].any()


@pytest.mark.parametrize("size", [1, 3, 20])
def test_batches_leave_no_trace(size):
    builder = PrototypeBuilder(TEXT, pooled_size=5)
    for start in range(0, 20, size):
        part = slice(start, start + size)
        builder.add(IMAGES[part], POOLED[part], LABELS[part])
    found, wanted = builder.build().to_arrays(), PROTOTYPES.to_arrays()
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


def test_prototypes_survive_a_round_trip():
    arrays = PROTOTYPES.to_arrays()
    again = Prototypes.from_arrays(arrays).to_arrays()
    assert {name: (a.dtype, a.shape) for name, a in again.items()} == {
        "text": (np.float32, (3, 8)),
        "image": (np.float32, (3, 8)),
        "pooled": (np.float32, (3, 5)),
        "counts": (np.int64, (3,)),
    }
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", TEXT.astype(np.float64)),
        ("text", np.full((3, 8), np.nan, np.float32)),
        ("image", TEXT[:2]),
        ("pooled", POOLED[:2]),
        ("counts", np.array([1, 2, -1])),
        ("counts", np.array([1.0, 2.0, 0.0])),
        ("surprise", TEXT),
    ],
)
def test_broken_stored_prototypes_are_refused_by_name(name, value):
    with pytest.raises(InvalidStateError) as caught:
        Prototypes.from_arrays({**PROTOTYPES.to_arrays(), name: value})
    assert caught.value.tensor == name


def test_a_missing_part_is_refused_by_name():
    with pytest.raises(InvalidStateError, match="'text' is missing"):
        Prototypes.from_arrays({})


@pytest.mark.parametrize(
    ("images", "pooled", "labels", "reason"),
    [
        (IMAGES[:, :7], POOLED, LABELS, "image features have shape"),
        (IMAGES, POOLED[:, :4], LABELS, "pooled features have shape"),
        (IMAGES[:5], POOLED, LABELS, "rows"),
        (IMAGES, POOLED, LABELS + 2, "labels lie in"),
        (IMAGES, POOLED, LABELS - 1, "labels lie in"),
        (IMAGES, POOLED, LABELS.astype(float), "not integers"),
        (IMAGES * np.nan, POOLED, LABELS, "NaN"),
    ],
)
def test_features_that_do_not_fit_are_refused(images, pooled, labels, reason):
    with pytest.raises(ValueError, match=reason):
        PrototypeBuilder(TEXT, pooled_size=5).add(images, pooled, labels)


# Routers

EYE = np.eye(4, dtype=np.float32)


def task(text_rows, pooled_rows, counts=None):
    counts = np.ones(len(text_rows), dtype=np.int64) if counts is None else np.array(counts)
    zeros = np.zeros((len(text_rows), 4), dtype=np.float32)
    return Prototypes(EYE[text_rows], zeros, EYE[pooled_rows] * (counts > 0)[:, None], counts)


def test_paper_scores_a_task_by_its_best_prototype():
    other = build_prototypes(features(9, 6, 8), IMAGES, POOLED, LABELS)
    queries = features(5, 11, 8)
    scores = router_by_name("paper", [PROTOTYPES, other]).scores(Query(queries, POOLED[:11]))
    for column, prototypes in enumerate([PROTOTYPES, other]):
        wanted = (unit(queries) @ unit(prototypes.text + prototypes.image).T).max(axis=1)
        assert scores[:, column] == pytest.approx(wanted, abs=1e-6)


def test_pooled_looks_at_pooled_features_only():
    tasks = [task([0, 1], [0, 1]), task([2, 3], [2, 3])]
    query = Query(image_features=EYE[[0, 2]], pooled=EYE[[3, 1]])
    assert rank(router_by_name("paper", tasks).scores(query), 1).tolist() == [[0], [1]]
    assert rank(router_by_name("pooled", tasks).scores(query), 1).tolist() == [[1], [0]]


def test_a_class_without_images_never_wins_in_pooled():
    tasks = [task([0, 1], [0, 1], counts=[1, 0]), task([2], [2])]
    # Against everything: the cosine is -1 to class 0 and to task 1, 0 to a zero prototype.
    query = Query(EYE[:1], -(EYE[:1] + EYE[2:3]))
    assert router_by_name("pooled", tasks).scores(query)[0] == pytest.approx([-(0.5**0.5)] * 2)


def test_a_task_without_images_comes_last_in_pooled():
    tasks = [task([0], [0], counts=[0]), task([1], [1])]
    scores = router_by_name("pooled", tasks).scores(Query(EYE[:1], EYE[:1]))
    assert scores.tolist() == [[-1.0, 0.0]]


def test_without_any_image_the_paper_router_decides():
    tasks = [task([0], [0], counts=[0]), task([1], [1], counts=[0])]
    scores = router_by_name("pooled", tasks).scores(Query(EYE[1:2], EYE[:1]))
    assert scores.tolist() == [[0.0, 1.0]]


def test_no_images_give_no_scores():
    query = Query(np.zeros((0, 8), np.float32), np.zeros((0, 5), np.float32))
    for name in ("paper", "pooled"):
        assert router_by_name(name, [PROTOTYPES]).scores(query).shape == (0, 1)


def test_routers_refuse_what_they_cannot_score():
    with pytest.raises(ValueError, match="unknown router 'magic'; known: paper, pooled"):
        router_by_name("magic", [PROTOTYPES])
    with pytest.raises(ValueError, match="at least one task"):
        router_by_name("pooled", [])
    router = router_by_name("pooled", [PROTOTYPES])
    with pytest.raises(ValueError, match="width"):
        router.scores(Query(IMAGES, IMAGES))
    with pytest.raises(ValueError, match="NaN"):
        router.scores(Query(IMAGES, POOLED * np.nan))


def test_rank_puts_the_best_first_and_breaks_ties_by_the_earlier_task():
    scores = np.array([[0.1, 0.9, 0.5], [0.3, 0.3, 0.3], [0.2, 0.7, 0.7]])
    assert rank(scores, 2).tolist() == [[1, 2], [0, 1], [1, 2]]
    assert rank(scores, 9).shape == (3, 3)
    with pytest.raises(ValueError, match="at least one"):
        rank(scores, 0)


# Figures of merit


def test_accuracy_is_the_share_of_right_answers():
    assert accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75
    with pytest.raises(ValueError, match="no images"):
        accuracy(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="predictions for"):
        accuracy(np.array([1]), np.array([1, 2]))


def test_transfer_average_and_last_of_three_tasks():
    figures = sequence_metrics(np.array([[90, 40, 30], [80, 70, 20], [85, 75, 60]]))
    assert np.isnan(figures.transfer[0])
    assert figures.transfer[1:].tolist() == [40, 25]  # before learning tasks 2 and 3
    assert figures.average == pytest.approx([85, 185 / 3, 110 / 3])
    assert figures.last.tolist() == [85, 75, 60]
    assert figures.mean_transfer == 32.5
    assert figures.mean_average == pytest.approx((85 + 185 / 3 + 110 / 3) / 3)
    assert figures.mean_last == pytest.approx(220 / 3)


def test_one_task_has_no_transfer():
    figures = sequence_metrics(np.array([[0.5]]))
    assert figures.mean_transfer is None
    assert (figures.mean_average, figures.mean_last) == (0.5, 0.5)


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((0, 0)), np.full((1, 1), np.nan)])
def test_a_matrix_that_is_not_one_is_refused(matrix):
    with pytest.raises(ValueError, match="accuracies"):
        sequence_metrics(matrix)


def test_softmax_is_stable_and_sums_to_one():
    found = softmax(np.array([[1e4, 1e4, -np.inf], [0.0, np.log(3.0), -1e4]]))
    assert found.tolist() == [[0.5, 0.5, 0.0], pytest.approx([0.25, 0.75, 0.0])]
    assert softmax(np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(ValueError, match="NaN or infinity"):
        softmax(np.array([1.0, np.nan]))


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROTOTYPES.text = TEXT
