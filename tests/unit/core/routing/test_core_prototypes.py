"""Prototypes: means of unit features, built batch by batch."""

import dataclasses

import numpy as np
import pytest
from strategies import prototypes_of

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.routing.prototypes import PrototypeBuilder, Prototypes


def features(seed, rows, columns):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


TEXT, IMAGES, POOLED = features(0, 3, 8), features(1, 20, 8), features(2, 20, 5)
LABELS = np.random.default_rng(3).integers(0, 2, 20)  # class 2 has no pictures
PROTOTYPES = prototypes_of(TEXT, IMAGES, POOLED, LABELS)


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


def test_some_classes_keep_their_rows_and_the_further_arrays():
    whole = dataclasses.replace(PROTOTYPES, extra={"scatter": POOLED})
    some = whole.only([2, 0])
    for part in ("text", "image", "pooled", "counts"):
        assert np.array_equal(getattr(some, part), getattr(whole, part)[[2, 0]])
    assert some.extra == whole.extra


def test_prototypes_survive_a_round_trip():
    arrays = PROTOTYPES.to_arrays()
    again = Prototypes.from_arrays(arrays).to_arrays()
    assert {name: (a.dtype, a.shape) for name, a in again.items()} == {
        "text": (np.float32, (3, 8)),
        "image": (np.float32, (3, 8)),
        "pooled": (np.float32, (3, 5)),
        "counts": (np.int64, (3,)),
        "own_similarities": (np.float32, (20,)),
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
    ],
)
def test_broken_stored_prototypes_are_refused_by_name(name, value):
    with pytest.raises(InvalidStateError) as caught:
        Prototypes.from_arrays({**PROTOTYPES.to_arrays(), name: value})
    assert caught.value.tensor == name


def test_further_arrays_are_kept_as_they_are_whatever_they_hold():
    extra = {"scatter": features(7, 5, 5), "seen": np.array([3], np.int32), "odd": TEXT * np.nan}
    stored = dataclasses.replace(PROTOTYPES, extra=extra).to_arrays()
    again = Prototypes.from_arrays(stored)
    assert set(again.extra) == set(extra)
    for name, values in again.to_arrays().items():
        assert values.dtype == stored[name].dtype
        assert np.array_equal(values, stored[name], equal_nan=True)


def test_a_further_array_cannot_take_a_parts_name():
    with pytest.raises(ValueError, match="'counts' is a part of the prototypes"):
        dataclasses.replace(PROTOTYPES, extra={"counts": TEXT})


def test_a_missing_part_is_refused_by_name():
    with pytest.raises(InvalidStateError, match="'text' is missing"):
        Prototypes.from_arrays({})


@pytest.mark.parametrize(
    ("images", "pooled", "labels", "reason"),
    [
        (IMAGES[:, :7], POOLED, LABELS, "image features have shape"),
        (IMAGES, POOLED[:, :4], LABELS, "pooled features have shape"),
        (IMAGES[:5], POOLED, LABELS, "rows"),
        (IMAGES, POOLED, LABELS + 2, "labels are in"),
        (IMAGES, POOLED, LABELS - 1, "labels are in"),
        (IMAGES, POOLED, LABELS.astype(float), "not integers"),
        (IMAGES * np.nan, POOLED, LABELS, "NaN"),
    ],
)
def test_features_that_do_not_fit_are_refused(images, pooled, labels, reason):
    with pytest.raises(ValueError, match=reason):
        PrototypeBuilder(TEXT, pooled_size=5).add(images, pooled, labels)


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (np.zeros(3), "is float64"),
        (np.zeros((3, 1), np.float32), "not float32"),
        (np.array([0.5, 0.4], np.float32), "ascending"),
        (np.array([0.5, 1.5], np.float32), "cosines"),
        (np.array([np.nan], np.float32), "cosines"),
    ],
)
def test_damaged_similarities_of_own_images_are_refused_by_name(own, reason):
    stored = {**PROTOTYPES.to_arrays(), "own_similarities": own}
    with pytest.raises(InvalidStateError, match=f"'own_similarities' .*{reason}"):
        Prototypes.from_arrays(stored)


def test_without_images_there_are_no_similarities():
    built = PrototypeBuilder(TEXT, pooled_size=5).build()
    assert "own_similarities" not in built.to_arrays()
    assert built.own_similarities.shape == (0,)


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROTOTYPES.text = TEXT
