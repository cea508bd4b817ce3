"""Pictures of no learned task: with and without a named task, and tasks that cannot tell."""

import numpy as np
import pytest
from PIL import Image
from stored_pictures import stored

from condu_cli.core.routing.prototypes import PrototypeBuilder
from condu_cli.errors import UsageError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.answering.predictor import PredictOptions, Predictor
from condu_cli.workflows.opening.workspace import Workspace

COLOURS = ((40, 60, 220), (220, 40, 40), (40, 190, 60), (230, 200, 40))
OWN = [Image.new("RGB", (16, 16), colour) for colour in COLOURS]
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
PICTURES = stored([*OWN, NOISE])
THRESHOLD = 0.1
"""More than one of 17: each task was learned from 16 pictures."""


def predictor(workspace, **options):
    return Predictor(workspace, workspace.head(), PredictOptions(**options))


def unknown(workspace, pictures=PICTURES, **options):
    return [p.unknown for p in predictor(workspace, **options).predict(pictures)]


@pytest.mark.parametrize("options", [{}, {"router": "paper"}, {"experts": 2}, {"rule": "vote"}])
def test_a_picture_like_no_task_is_unknown_whoever_answers(workspace, options):
    assert unknown(workspace, threshold=THRESHOLD, **options) == [False] * 4 + [True]


def test_a_picture_of_another_task_is_unknown_to_a_named_one(workspace):
    found = unknown(workspace, threshold=THRESHOLD, task="plants")
    assert found == [True, True, False, False, True]


def test_the_answers_stay_what_they_were(workspace):
    marked = predictor(workspace, threshold=THRESHOLD).predict(PICTURES)
    plain = predictor(workspace).predict(PICTURES)
    assert [p.answers for p in marked] == [p.answers for p in plain]
    assert [p.experts for p in marked] == [p.experts for p in plain]
    assert not any(p.unknown for p in plain)


def test_the_base_model_sees_every_picture_once(workspace, monkeypatch):
    from condu_cli.workflows.answering import panel

    seen = []
    real = panel.image_features
    monkeypatch.setattr(
        panel, "image_features", lambda m, pixels: seen.append(len(pixels)) or real(m, pixels)
    )
    unknown(workspace, threshold=THRESHOLD)
    assert sum(seen) == len(PICTURES)


def test_too_few_pictures_for_a_threshold_call_nothing_unknown(workspace):
    strict = predictor(workspace, threshold=0.05)
    assert strict.unjudged == ("warm", "plants")
    assert not any(p.unknown for p in strict.predict(PICTURES))
    assert predictor(workspace, threshold=THRESHOLD).unjudged == ()
    assert predictor(workspace).unjudged == ()


def test_a_task_learned_before_its_pictures_were_measured_is_named(
    path, learn, warm, plants, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(PrototypeBuilder, "build", _without_own_similarities(PrototypeBuilder.build))
        learn(path, "warm", warm, iterations=2)
    learn(path, "plants", plants, iterations=2)
    workspace = Workspace(Registry.open(path))
    assert predictor(workspace, threshold=THRESHOLD).unjudged == ("warm",)
    assert predictor(workspace, threshold=THRESHOLD, task="plants").unjudged == ()
    assert not any(unknown(workspace, threshold=0.9, task="warm"))


def _without_own_similarities(build):
    from dataclasses import replace

    return lambda builder: replace(build(builder), extra={})


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, float("nan")])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(UsageError, match="a share between 0 and 1"):
        PredictOptions(threshold=threshold).decision()


def test_labels_have_no_pictures_to_be_like():
    with pytest.raises(UsageError, match="not your own labels"):
        PredictOptions(threshold=0.1, labels=("sea", "fire")).decision()
