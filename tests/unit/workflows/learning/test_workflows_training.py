"""What a training checks before it starts."""

import pytest

from condu_cli.workflows.learning import training


def test_files_of_test_pictures_are_looked_at_before_training(path, warm, learn, monkeypatch):
    told = []
    monkeypatch.setattr(training, "fingerprint", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learn(path, "warm", warm, told.append, iterations=3)
    assert "training" not in {event.stage for event in told}


def test_little_space_is_reported_before_training(path, warm, learn, monkeypatch):
    told = []
    monkeypatch.setattr(training, "free_bytes", lambda _: 1000)
    learn(path, "warm", warm, told.append, iterations=3)
    (first, *_) = [event for event in told if event.stage == "training"]
    assert first.done == 0
    assert "may not survive an interruption" in first.figures["warning"]
