"""What a training checks before it starts."""

import signal

import pytest

from condu_cli.errors import InterruptedByUserError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.learning import training
from condu_cli.workflows.learning.destination import Destination
from condu_cli.workflows.learning.resuming import resume


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


# Ctrl-C between training and the commit


@pytest.fixture
def stop_while_choosing():
    """Press Ctrl-C once; a second time would interrupt at once."""
    pressed = []

    def on_progress(event):
        if event.stage == "choosing" and not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)

    return on_progress


def test_a_stop_while_choosing_keeps_the_training(tmp_path, path, warm, learn, stop_while_choosing):
    straight = tmp_path / "straight"
    learn(straight, "warm", warm, iterations=3)
    with pytest.raises(InterruptedByUserError, match="after iteration 3 of 3 and is kept"):
        learn(path, "warm", warm, stop_while_choosing, iterations=3)

    steps = []
    (done,) = resume(Registry.open(path), "warm", steps.append)
    assert "training" not in {event.stage for event in steps}
    assert done.summary.iterations == 3
    one, other = Registry.open(straight).head(), Registry.open(path).head()
    assert one.state_blobs() == other.state_blobs()
    assert Registry.open(path).runs.paths() == []


def test_a_stop_while_choosing_waits_if_the_training_is_not_saved(
    path, warm, learn, monkeypatch, stop_while_choosing
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Destination, "keep", full)
    with pytest.raises(InterruptedByUserError, match="while committing"):
        learn(path, "warm", warm, stop_while_choosing, iterations=3)
    assert len(Registry.open(path).waiting.paths()) == 1
