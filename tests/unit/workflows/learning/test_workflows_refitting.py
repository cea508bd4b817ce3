"""Heads that are fitted to a tuned expert's own features."""

import numpy as np
import pytest
import torch

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.classifiers import text_features
from condu_cli.backbone.features import image_features
from condu_cli.core.heads import fit_head
from condu_cli.core.routing.prototypes import unit_rows
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.transforms import view_of
from condu_cli.data.sources.folders import read_folder
from condu_cli.train.line import Line
from condu_cli.train.team import SOLO, Solo
from condu_cli.workflows.learning import refitting
from condu_cli.workflows.learning.refitting import Refitting, spread
from condu_cli.workflows.learning.starting import HeadStage

NAMES = ("blue", "red")


@pytest.fixture
def pictures(warm):
    return PictureSet(read_folder(warm).train)


@pytest.fixture
def held_out(warm):
    return PictureSet(read_folder(warm).test)


@pytest.fixture
def base():
    return load_base("tiny")


@pytest.fixture(params=["image", "both"])
def expert(base, request):
    """An expert that has moved away from the base model, with its image tower or with both."""
    expert = base.training_copy()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in expert.trainable_parameters().items():
            if name.startswith("visual.") or request.param == "both":
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * parameter.std(correction=0) * noise)
    return expert


def texts_of(model):
    return text_features(model, NAMES, ("a photo of a {}.",))


def pooled(model, pictures):
    view = view_of(model.preprocessing)
    return image_features(model, pictures.batch(range(len(pictures)), view)[0]).pooled.numpy()


@pytest.fixture
def refit_of(base, expert, pictures):
    features = pooled(base, pictures)
    judged, _ = HeadStage(base.training_copy(), texts_of(base)).judge(
        features, pictures.labels.numpy()
    )
    trainable = base.trainable_parameters()

    def make(held_out, events=None, team=SOLO, pause=lambda: None):
        return Refitting(
            expert,
            Line(expert, trainable),
            trainable[base.linear_end].detach(),
            lambda: texts_of(expert),
            pictures,
            held_out,
            base.preprocessing.image_size,
            features.shape[1],
            judged,
            2,
            team,
            (events if events is not None else []).append,
            pause,
        )

    return make


def test_the_head_at_the_start_is_the_one_on_the_base_models_features(
    base, pictures, held_out, refit_of
):
    refit = refit_of(held_out).at(0.0)
    head = fit_head(unit_rows(pooled(base, pictures)), pictures.labels.numpy(), 2)
    scores = head.scores(unit_rows(pooled(base, held_out)))
    right = scores.argmax(axis=1) == held_out.labels.numpy()
    assert refit.point.accuracy == pytest.approx(right.mean())
    assert len(refit.labels) == len(pictures) + len(held_out)


def test_the_expert_that_is_kept_answers_as_its_head_does(expert, pictures, held_out, refit_of):
    refitting = refit_of(held_out)
    refitting.keep(refitting.at(0.5))
    features = pooled(expert, held_out)
    every = np.concatenate([pooled(expert, pictures), features])
    labels = torch.cat([pictures.labels, held_out.labels]).numpy()
    scores = fit_head(unit_rows(every), labels, 2).scores(unit_rows(features))
    view = view_of(expert.preprocessing)
    pixels = held_out.batch(range(len(held_out)), view)[0]
    with torch.inference_mode():
        logits = (expert.encode_images(pixels) @ texts_of(expert).T).numpy()
    assert (logits.argmax(axis=1) == scores.argmax(axis=1)).all()


def test_progress_counts_the_pictures_of_all_passes(held_out, pictures, refit_of):
    events = []
    refitting = refit_of(held_out, events)
    for alpha in (0.5, 1.0):
        refitting.at(alpha)
    each = len(pictures) + len(held_out)
    assert [(e.done, e.total) for e in events][-1] == (2 * each, 2 * each)


def test_without_held_out_pictures_there_is_a_head_and_no_point(pictures, refit_of):
    refit = refit_of(None).at(1.0)
    assert refit.point is None
    assert len(refit.labels) == len(pictures)


def test_features_that_are_not_finite_are_of_no_use(expert, held_out, refit_of):
    refitting = refit_of(held_out)
    with torch.no_grad():
        refitting._line._tuned["visual.proj"].zero_()
        for value in refitting._line._tuned.values():
            value.fill_(torch.inf)
    assert refitting.at(1.0).point.losses.mean() == 2.0


# Pauses


class Member(Solo):
    """One of three processes, whose sums are its own tensors."""

    size = 3

    def __init__(self, rank):
        self.rank = rank


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_every_process_pauses_equally_often(monkeypatch, pictures, refit_of, rank):
    monkeypatch.setattr(refitting, "BATCH", 5)  # of 16 pictures one process has 6, the others 5
    pauses = []
    one = refit_of(None, team=Member(rank), pause=lambda: pauses.append(1))
    one._pooled(pictures, range(len(pictures)))
    assert len(pauses) == 2


# Which pictures a head is fitted to


def test_all_pictures_are_used_if_there_are_few():
    assert spread(np.array([2, 0, 1]), 3) == [0, 1, 2]


def test_of_many_pictures_each_class_gives_its_share():
    labels = np.repeat([0, 1, 2], [600, 300, 1])[np.random.default_rng(0).permutation(901)]
    chosen = spread(labels, 90)
    assert len(chosen) <= 93
    counts = np.bincount(labels[chosen])
    assert counts[0] == pytest.approx(60, abs=1)
    assert counts[1] == pytest.approx(30, abs=1)
    assert counts[2] == 1


def test_a_head_is_fitted_to_so_many_pictures_at_most(monkeypatch, held_out, refit_of):
    monkeypatch.setattr(refitting, "MOST_PICTURES", 6)
    refit = refit_of(held_out).at(1.0)
    assert 6 <= len(refit.labels) - len(held_out) <= 6 + len(NAMES)
