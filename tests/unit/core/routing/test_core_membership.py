"""Membership: the share of a task's own images that are no more similar to it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import prototypes_of

from condu_cli.core.routing.membership import Membership

TEXT = np.eye(2, 4, dtype=np.float32)


def made(own=None, directions=((1, 0, 0), (0, 1, 0))):
    pooled = np.array(directions, np.float32)
    built = prototypes_of(TEXT, np.ones((2, 4), np.float32), pooled, np.array([0, 1]))
    return replace(built, extra={} if own is None else {"own_similarities": np.float32(own)})


def at(cosine):
    """A pooled feature with this cosine to the first class, and none to the second."""
    return [cosine, 0, (1 - cosine**2) ** 0.5]


def test_the_share_counts_own_images_that_are_no_more_similar_and_the_image_itself():
    members = Membership({"t": made([0.2, 0.4, 0.6, 0.8])})
    shares = members.shares(["t"] * 4, np.array([at(0.1), at(0.41), at(0.7), at(0.9)]))
    assert shares == pytest.approx([1 / 5, 3 / 5, 4 / 5, 1])


def test_every_image_is_compared_with_its_own_task():
    away = made([0.5], directions=((0, 0, 1), (0, 0, 1)))
    members = Membership({"a": made([0.5]), "b": away})
    image = np.array([at(0.9)] * 2)  # its cosine with b is sqrt(1 - 0.81) = 0.44
    assert members.shares(["a", "b"], image).tolist() == [1.0, 0.5]


def test_without_a_record_of_own_images_everything_may_belong_to_the_task():
    members = Membership({"old": made(), "new": made([0.5])})
    assert members.shares(["old", "new"], np.array([at(0.1)] * 2)).tolist() == [1.0, 0.5]
    assert (members.least_share("old"), members.least_share("new")) == (1.0, 0.5)


@given(st.integers(1, 40), st.floats(0.01, 0.5), st.integers(0, 2**32 - 1))
def test_no_more_than_the_share_of_the_tasks_own_images_is_below_it(count, share, seed):
    """Whichever of the images is the new one: the bound of a conformal test."""
    similarities = np.random.default_rng(seed).uniform(0, 1, count + 1)
    below = 0
    for index, new in enumerate(similarities):
        members = Membership({"t": made(np.sort(np.delete(similarities, index)))})
        (found,) = members.shares(["t"], np.array([at(new)]))
        below += found <= share - 1e-6
    assert below <= share * (count + 1)
