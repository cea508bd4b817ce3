"""Learning, predicting and evaluating decode every picture exactly once."""

from collections import Counter

import pytest

from condu_cli.data.pictures import picture_files, windows
from condu_cli.workflows.answering.evaluation import EvaluateRequest, evaluate
from condu_cli.workflows.answering.picture_answers import answer_paths
from condu_cli.workflows.answering.predictor import PredictOptions, Predictor

NAMES = ("blue", "red")


@pytest.fixture(params=[10, 100])
def count(request) -> int:
    return request.param


@pytest.fixture
def pictures(count, tmp_path, make_pictures):
    """Make a folder with this many pictures of two classes."""
    return make_pictures(tmp_path / "pictures", NAMES, count // 2, 16)


@pytest.fixture
def decodings(monkeypatch):
    """Count how often each picture is decoded."""
    counted = Counter()
    real = picture_files._decoded

    def counting(picture, name):
        counted[name] += 1
        return real(picture, name)

    monkeypatch.setattr(picture_files, "_decoded", counting)
    return counted


def once(paths) -> dict[str, int]:
    return {str(path): 1 for path in paths}


@pytest.mark.parametrize("held_out", [{}, {"validate_every": 1, "validation_share": 0.25}])
def test_learning_decodes_what_it_trains_and_measures_on_once(
    path, pictures, count, learner, decodings, held_out
):
    planned = learner(path, "warm", pictures, base="tiny", iterations=4, **held_out).plan()
    assert not decodings
    assert planned.run() is not None
    drawn = planned.plan.drawn
    assert len(drawn.data.train) + len(drawn.validation) == 0.8 * count
    assert decodings == once(s.picture for s in (*drawn.data.train, *drawn.validation))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"task": "warm"},
        {"experts": 2},
        {"router": "paper"},
        {"labels": ("sea", "fire")},
        {"task": "warm", "labels": ("sea", "fire")},
    ],
)
def test_predicting_decodes_every_picture_once(workspace, pictures, count, decodings, options):
    predictor = Predictor(workspace, workspace.head(), PredictOptions(**options))
    answered, errors, _ = answer_paths(predictor, [str(pictures)])
    assert (len(answered), errors) == (count, [])
    assert decodings == once(pictures.rglob("*.png"))


@pytest.mark.parametrize(
    "options",
    [
        {"zero_shot": True},
        {"label_space": "union", "zero_shot": True},
        {"label_space": "union", "experts": 2, "zero_shot": True},
    ],
)
def test_evaluating_decodes_every_picture_once(workspace, pictures, count, decodings, options):
    request = EvaluateRequest("warm", data=pictures, split="train", **options)
    found = evaluate(workspace, workspace.head(), request)
    assert found.n == count
    assert decodings == once(pictures.rglob("*.png"))


@pytest.mark.parametrize("options", [{}, {"experts": 2}])
def test_small_windows_decode_no_more_and_answer_the_same(
    workspace, pictures, count, decodings, monkeypatch, options
):
    def answers():
        predictor = Predictor(workspace, workspace.head(), PredictOptions(**options))
        found, _, _ = answer_paths(predictor, [str(pictures)])
        return [a.prediction for a in found]

    whole = answers()
    decodings.clear()
    monkeypatch.setattr(windows, "window_size", lambda _: 7)
    parts = answers()
    assert decodings == once(pictures.rglob("*.png"))
    assert [p.experts[0].task for p in parts] == [p.experts[0].task for p in whole]
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours.answers[0].label == theirs.answers[0].label
        assert ours.answers[0].probability == pytest.approx(theirs.answers[0].probability, abs=1e-5)
