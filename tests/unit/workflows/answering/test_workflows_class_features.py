"""Class names are encoded once per model, however many windows of pictures there are."""

import pytest
import torch

from condu_cli.data.pictures import windows
from condu_cli.workflows.answering import class_features
from condu_cli.workflows.answering.answers import Candidate
from condu_cli.workflows.answering.class_features import ClassFeatures
from condu_cli.workflows.answering.evaluation import EvaluateRequest, evaluate
from condu_cli.workflows.answering.predictor import PredictOptions, Predictor

CANDIDATES = tuple(Candidate(label, None, ("a {}.",)) for label in ("sea", "fire", "hay"))


@pytest.fixture
def encoded(monkeypatch):
    """Record which model encoded class names, and how often."""
    models = []
    real = class_features.text_features

    def counting(model, *rest):
        models.append(model)
        return real(model, *rest)

    monkeypatch.setattr(class_features, "text_features", counting)
    return models


@pytest.mark.parametrize(
    ("options", "times"),
    [({"task": "warm"}, 1), ({}, 1), ({"experts": 2}, 3), ({"labels": ("sea", "fire")}, 1)],
)
def test_more_windows_encode_nothing_again(workspace, warm, encoded, monkeypatch, options, times):
    pictures = sorted(warm.rglob("*.png"))
    monkeypatch.setattr(windows, "window_size", lambda _: 2)
    Predictor(workspace, workspace.head(), PredictOptions(**options)).predict(pictures)
    assert len(encoded) == times


def test_a_zero_shot_measurement_encodes_the_names_twice(workspace, encoded, monkeypatch):
    """Once for the expert and once for the base model, however many windows there are."""
    monkeypatch.setattr(windows, "window_size", lambda _: 1)
    request = EvaluateRequest("warm", zero_shot=True)
    assert evaluate(workspace, workspace.head(), request).n > 1
    assert len(encoded) == 2


def test_the_least_recently_used_is_dropped_first(workspace, encoded):
    base = workspace.base
    size = ClassFeatures().of(None, base, CANDIDATES).nbytes
    encoded.clear()
    kept = ClassFeatures(limit=2 * size)
    for owner in ("a", "b", "a", "c", "a", "b"):
        assert torch.equal(kept.of(owner, base, CANDIDATES), kept.of(owner, base, CANDIDATES))
    assert len(encoded) == 4  # a, b, c, and b once more


def test_one_that_is_larger_than_the_limit_is_kept_alone(workspace, encoded):
    kept = ClassFeatures(limit=1)
    for _ in range(2):
        kept.of(None, workspace.base, CANDIDATES)
    assert len(encoded) == 1
