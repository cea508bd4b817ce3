"""Interrupted trainings: saved, listed, and resumed where they stopped."""

import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.dual_encoder import DualEncoder
from condu_cli.cli.hints.making import hint_of
from condu_cli.data.draws import hold_out
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.sources.folders import read_folder
from condu_cli.errors import (
    ConduError,
    DataError,
    IntegrityError,
    InterruptedByUserError,
    LockedError,
    NotFoundError,
    UsageError,
)
from condu_cli.registry.repository import Registry
from condu_cli.workflows.learning import destination
from condu_cli.workflows.learning.resuming import latest_kept, resume
from condu_cli.workflows.learning.training import Machine
from condu_cli.workflows.learning.unfinished import load_unfinished
from condu_cli.workflows.opening.workspace import new_config
from condu_cli.workflows.sessions import committing


def ctrl_c_after(iteration):
    """Return a progress callback that presses Ctrl-C after this many iterations."""

    def on_progress(event):
        if event.stage == "training" and event.done == iteration:
            os.kill(os.getpid(), signal.SIGINT)

    return on_progress


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory, warm, learn):
    """The registry that `stopped` copies, and the error that stopped its training."""
    path = tmp_path_factory.mktemp("stopped") / "registry"
    with pytest.raises(InterruptedByUserError) as caught:
        learn(path, "warm", warm, ctrl_c_after(4), iterations=10)
    return path, caught.value


@pytest.fixture
def stopped(stopped_once, path):
    """A registry with a training that was stopped after 4 of 10 iterations."""
    return Registry.open(shutil.copytree(stopped_once[0], path))


@pytest.fixture(scope="module")
def straight(tmp_path_factory, warm, learn):
    """A registry with the same training, uninterrupted; no test changes it."""
    path = tmp_path_factory.mktemp("straight") / "registry"
    learn(path, "warm", warm, iterations=10)
    return Registry.open(path)


def delta(registry, task):
    """Return what the session holds about its only task."""
    head = registry.head()
    return dict(registry.blobs.open(head.shared)), head.entry(task).record["rescaler"]


def test_ctrl_c_keeps_the_training_and_says_how_to_go_on(stopped_once):
    path, error = stopped_once
    assert error.exit_code == 130
    assert "stopped after iteration 4 of 10 and is kept" in error.message
    assert hint_of(error) == "condu learn --task warm --resume continues from there"
    registry = Registry.open(path)
    assert registry.head() is None
    (file,) = registry.runs.all()
    assert load_unfinished(registry, file).iteration == 4


def test_a_resumed_training_is_committed_as_if_it_had_never_stopped(stopped, straight):
    (done,) = resume(stopped, "warm")
    assert stopped.head() == done.session
    assert stopped.runs.paths() == []
    assert stopped.waiting.paths() == []

    (ours, rescaler), (theirs, other) = delta(stopped, "warm"), delta(straight, "warm")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert rescaler == other
    assert done.session.entry("warm").expert.prototypes == (
        straight.head().entry("warm").expert.prototypes
    )
    trainings = [r.head().entry("warm").expert.training for r in (stopped, straight)]
    assert trainings[0]["final_loss"] == trainings[1]["final_loss"]
    assert trainings[0]["recipe"] == trainings[1]["recipe"]


def test_it_resumes_with_its_original_templates(stopped, monkeypatch):
    before = load_unfinished(stopped, stopped.runs.all()[0]).request.templates
    assert before
    monkeypatch.setattr("condu_cli.data.sources.task_data.DEFAULT_TEMPLATES", ("another {}.",))
    (done,) = resume(stopped, "warm")
    assert done.session.entry("warm").expert.templates == before


def test_it_may_be_interrupted_again(stopped, straight):
    with pytest.raises(InterruptedByUserError, match="after iteration 7 of 10"):
        resume(stopped, "warm", ctrl_c_after(7))
    (file,) = stopped.runs.all()
    assert load_unfinished(stopped, file).iteration == 7
    resume(stopped, None)
    ours, theirs = delta(stopped, "warm")[0], delta(straight, "warm")[0]
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_second_ctrl_c_stops_at_once_and_keeps_nothing(path, warm, learn):
    def twice(event):
        if event.stage == "training" and event.done == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        learn(path, "warm", warm, twice, iterations=10)
    assert not path.exists()


def test_a_training_writes_itself_down_while_it_runs(path, warm, learn):
    seen = []

    def on_progress(event):
        if event.stage == "training" and path.exists():
            registry = Registry.open(path)
            seen.extend(load_unfinished(registry, file).iteration for file in registry.runs.all())

    learn(path, "warm", warm, on_progress, iterations=7, machine=Machine(save_every=3))
    assert seen == [3, 3, 3, 6]
    assert Registry.open(path).runs.paths() == []


def test_a_task_with_an_unfinished_training_is_not_restarted_by_mistake(stopped, warm, learner):
    with pytest.raises(UsageError, match="was interrupted and can be resumed") as caught:
        learner(stopped.path, "warm", warm)
    assert "--resume" in hint_of(caught.value)
    assert "--retrain" in hint_of(caught.value)
    learner(stopped.path, "other", warm)


def test_it_is_restarted_on_purpose(stopped, warm, learn):
    learn(stopped.path, "warm", warm, iterations=2, retrain=True)
    assert stopped.head().entry("warm").expert.training["recipe"]["iterations"] == 2
    assert stopped.runs.paths() == []


def test_other_pictures_than_it_began_with_are_refused(path, warm, learn, tmp_path, make_pictures):
    data = shutil.copytree(warm, tmp_path / "data")
    with pytest.raises(InterruptedByUserError):
        learn(path, "warm", data, ctrl_c_after(4), iterations=10)
    next(data.rglob("*.png")).unlink()
    registry = Registry.open(path)
    with pytest.raises(DataError, match="have changed since its training began") as caught:
        resume(registry, "warm")
    assert "--retrain" in hint_of(caught.value)
    assert len(registry.runs.paths()) == 1


def test_a_corrupt_file_is_named_and_left(stopped):
    (path,) = stopped.runs.paths()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"unfinished training \S+ is corrupt: "):
        resume(stopped, "warm")
    assert path.exists()


def test_a_training_of_another_registry_is_refused(stopped, tmp_path, learn, plants):
    other = tmp_path / "other"
    Registry.create(other, new_config(load_base("tiny"), train="image"))
    learn(other, "plants", plants, iterations=1)
    (path,) = stopped.runs.paths()
    registry = Registry.open(other)
    registry.paths.runs.mkdir(exist_ok=True)
    shutil.copy(path, registry.paths.runs)
    with pytest.raises(IntegrityError, match="another base model"):
        resume(registry, "warm")


def test_what_its_commit_left_behind_is_answered_with_the_session(stopped):
    (path,) = stopped.runs.paths()
    content = path.read_bytes()
    (done,) = resume(stopped, "warm")
    path.write_bytes(content)
    (again,) = resume(stopped, "warm")
    assert (again.summary, again.session) == (None, done.session)
    assert stopped.runs.paths() == []


def test_resume_with_nothing_kept_says_so(stopped):
    with pytest.raises(NotFoundError, match="no training was interrupted"):
        resume(stopped, "other")


def test_training_that_diverges_leaves_nothing_to_resume(path, warm, learn):
    with pytest.raises(DataError, match="diverged"):
        learn(
            path,
            "warm",
            warm,
            iterations=20,
            learning_rate=1e30,
            warmup_iterations=0,
            machine=Machine(save_every=1),
            head_first=False,
        )
    assert not path.exists() or Registry.open(path).runs.paths() == []


def test_training_that_diverges_after_a_measurement_commits_the_best(path, warm, learn):
    def no_number(event):
        if event.stage == "training" and event.done == 30:
            for tensor in trained:
                tensor.data.fill_(torch.nan)

    trained = []
    copy = DualEncoder.training_copy

    def noted(self):
        expert = copy(self)
        trained.extend(expert.trainable_parameters().values())
        return expert

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DualEncoder, "training_copy", noted)
        summary = learn(path, "warm", warm, no_number, iterations=40, keep="best")
    assert summary.iterations == 30
    (warning,) = summary.warnings
    assert "diverged at iteration 31" in warning
    assert "100.0 % on held-out pictures" in warning
    assert Registry.open(path).head().entry("warm").expert.training["kept_iteration"] < 30


def test_few_shots_and_validation_resume_with_the_same_pictures(path, warm, learn, tmp_path):
    values = {"iterations": 10, "shots": 4, "keep": "best", "validation_share": 0.25, "seed": 3}
    learn(tmp_path / "straight", "warm", warm, **values)
    with pytest.raises(InterruptedByUserError):
        learn(path, "warm", warm, ctrl_c_after(5), **values)
    (done,) = resume(Registry.open(path), None)
    straight = Registry.open(tmp_path / "straight").head().entry("warm").expert.training
    training = done.session.entry("warm").expert.training
    assert training["validation"] == straight["validation"]
    assert training["kept_iteration"] == straight["kept_iteration"]
    assert done.summary.validation_accuracy is not None


def test_the_request_is_read_back_unchanged(stopped):
    (file,) = stopped.runs.all()
    unfinished = load_unfinished(stopped, file)
    again = replace(unfinished.request)
    assert again.from_record(again.as_record()) == again
    assert again.data.is_absolute()


# What must not be lost


def test_a_picture_that_cannot_be_read_for_a_moment_costs_nothing(stopped, monkeypatch):
    def hiccup(*_):
        raise DataError("the disk does not answer", reason="no-such-file")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(PictureSet, "training_batches", hiccup)
        with pytest.raises(DataError, match="does not answer"):
            resume(stopped, "warm")
    assert len(stopped.runs.paths()) == 1
    resume(stopped, "warm")


def test_a_retraining_that_fails_leaves_what_it_would_have_replaced(stopped, warm, learn):
    before = stopped.runs.paths()
    with pytest.raises(DataError, match="diverged"):
        learn(
            stopped.path,
            "warm",
            warm,
            retrain=True,
            learning_rate=1e30,
            warmup_iterations=0,
            head_first=False,
        )
    assert stopped.runs.paths() == before
    with pytest.raises(InterruptedByUserError):
        learn(stopped.path, "warm", warm, ctrl_c_after(1), retrain=True)
    assert stopped.runs.paths()[0] == before[0]
    assert len(stopped.runs.paths()) == 2


def test_the_latest_training_of_a_task_is_the_one_that_resumes(stopped, warm, learn):
    with pytest.raises(InterruptedByUserError):
        learn(stopped.path, "warm", warm, ctrl_c_after(3), retrain=True, iterations=6)
    (done,) = resume(stopped, "warm")
    assert done.summary.iterations == 6
    assert stopped.runs.paths() == []


@pytest.fixture
def locked(monkeypatch):
    """Make commits fail, so that trained experts wait."""

    def refused(*_, **__):
        raise LockedError("another process holds the lock", reason="registry-locked")

    @contextmanager
    def entered():
        with monkeypatch.context() as patch:
            patch.setattr(committing, "_commit_waiting", refused)
            with pytest.raises(LockedError) as caught:
                yield caught

    return entered


@pytest.fixture
def retraining(path, learn, locked):
    """A registry in which an expert of 3 iterations waits; its retraining stopped at 4 of 6."""

    def make(data):
        with locked():
            learn(path, "warm", data, iterations=3)
        with pytest.raises(InterruptedByUserError):
            learn(path, "warm", data, ctrl_c_after(4), retrain=True, iterations=6)
        return Registry.open(path)

    return make


def test_a_retraining_takes_the_place_of_an_expert_that_waits(warm, retraining):
    registry = retraining(warm)
    (done,) = resume(registry, None)
    assert done.summary.iterations == 6
    assert registry.waiting.paths() == registry.runs.paths() == []


def test_an_expert_that_was_trained_later_is_committed(stopped, warm, learn, locked):
    with locked():
        learn(stopped.path, "warm", warm, retrain=True, iterations=3)
    assert latest_kept(stopped) == (tuple(stopped.waiting.paths()), ())
    (done,) = resume(stopped, None)
    assert done.summary.iterations == 3
    assert stopped.waiting.paths() == stopped.runs.paths() == []


def test_a_retraining_that_cannot_go_on_points_to_the_expert_before_it(warm, retraining, tmp_path):
    photos = Path(shutil.copytree(warm, tmp_path / "warm"))
    registry = retraining(photos)
    (run,) = registry.runs.paths()
    assert latest_kept(registry) == ((), (run,))
    shutil.rmtree(photos)
    with pytest.raises(DataError) as caught:
        resume(registry, None)
    assert f"remove {run}, and condu learn --task warm --resume commits it" in hint_of(caught.value)
    run.unlink()
    (done,) = resume(registry, None)
    assert done.summary.iterations == 3


def test_of_a_retraining_that_has_written_itself_down_again_the_later_file_is_named(
    stopped, warm, learn, locked, monkeypatch
):
    with locked():
        learn(stopped.path, "warm", warm, retrain=True, iterations=3)
    with pytest.raises(InterruptedByUserError):
        learn(stopped.path, "warm", warm, ctrl_c_after(2), retrain=True, iterations=6)
    batches = PictureSet.training_batches

    def hiccup(*given):
        for number, batch in enumerate(batches(*given)):
            if number == 2:
                raise DataError("the disk does not answer", reason="no-such-file")
            yield batch

    before = stopped.runs.paths()
    monkeypatch.setattr(PictureSet, "training_batches", hiccup)
    with pytest.raises(DataError, match="does not answer") as caught:
        resume(stopped, "warm", machine=Machine(save_every=1))
    (later,) = set(stopped.runs.paths()) - set(before)
    assert hint_of(caught.value).startswith("Check the path; ")
    assert f"remove {later}, and" in hint_of(caught.value)


def test_a_retraining_whose_commit_fails_is_what_resume_commits(warm, retraining, locked):
    registry = retraining(warm)
    with locked() as caught:
        resume(registry, "warm")
    assert "trained before" not in hint_of(caught.value)
    (done,) = resume(registry, "warm")
    assert done.summary.iterations == 6


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_pictures_that_condu_data_led_to_are_found_again(
    path, warm, learn, tmp_path, monkeypatch, moved, twice
):
    shutil.copytree(warm, tmp_path / "sets" / "warm")
    monkeypatch.setenv("CONDU_DATA", str(tmp_path / "sets"))
    with pytest.raises(InterruptedByUserError):
        learn(path, "warm", None, ctrl_c_after(4), iterations=6)
    if twice:
        monkeypatch.delenv("CONDU_DATA")
        with pytest.raises(InterruptedByUserError):
            resume(Registry.open(path), "warm", ctrl_c_after(5))
    if moved:
        (tmp_path / "sets").rename(tmp_path / "elsewhere")
        monkeypatch.setenv("CONDU_DATA", str(tmp_path / "elsewhere"))
    else:
        monkeypatch.delenv("CONDU_DATA", raising=False)
    (done,) = resume(Registry.open(path), "warm")
    assert done.summary.iterations == 6


def test_a_list_by_a_relative_path_goes_on(path, warm, learn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(warm, "photos")
    rows = [f"{p},{p.parent.name}" for p in sorted(Path("photos").rglob("*.png"))]
    Path("list.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(InterruptedByUserError):
        learn(path, "warm", Path("list.csv"), ctrl_c_after(4), iterations=10)
    (done,) = resume(Registry.open(path), "warm")
    assert done.summary.iterations == 10


def test_a_full_disk_does_not_end_a_training_that_can_go_on(path, warm, learn, monkeypatch):
    def full(*_, **__):
        raise ConduError("no space left on device", reason="cannot-write")

    monkeypatch.setattr(destination, "save_unfinished", full)
    summary = learn(path, "warm", warm, iterations=4, machine=Machine(save_every=1))
    assert summary.warnings == ("the training could not be saved: no space left on device",)


def test_a_training_that_cannot_be_saved_says_so_at_once(path, warm, learn, monkeypatch):
    told = []
    monkeypatch.setattr(destination, "save_unfinished", no_room)
    summary = learn(path, "warm", warm, told.append, iterations=6, machine=Machine(save_every=2))
    said = [event.figures["warning"] for event in told if "warning" in event.figures]
    assert said == ["the training could not be saved: no room"]
    assert said[0] in summary.warnings


def test_ctrl_c_without_room_says_what_is_kept(path, warm, learn, monkeypatch):
    monkeypatch.setattr(destination, "save_unfinished", no_room)
    with pytest.raises(ConduError, match="no room; nothing of it is kept"):
        learn(path, "warm", warm, ctrl_c_after(4), iterations=10)


def no_room(*_):
    raise ConduError("no room", reason="cannot-write")


def test_ctrl_c_after_the_last_iteration_waits_until_the_expert_is_kept(
    path, warm, learn, monkeypatch
):
    keep = committing.keep_expert

    def pressed(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return keep(*arguments)

    monkeypatch.setattr(committing, "keep_expert", pressed)
    with pytest.raises(InterruptedByUserError, match="while committing") as caught:
        learn(path, "warm", warm, iterations=2)
    assert "--resume" in hint_of(caught.value)
    monkeypatch.undo()
    assert [done.task for done in resume(Registry.open(path), None)] == ["warm"]


def test_unreadable_held_out_pictures_are_reported_before_training(
    path, learn, tmp_path, make_pictures
):
    data = make_pictures(tmp_path / "data", ("a", "b"), 10, 16)
    (held_out,) = hold_out(read_folder(data), 0.07, 0)[1]
    held_out.picture.write_text("broken")
    with pytest.raises(DataError, match="held-out pictures can be used"):
        learn(path, "x", data, iterations=2, validation_share=0.07, max_unreadable=1)


def test_a_measurement_without_a_picture_to_spare_is_refused(path, warm, learn):
    with pytest.raises(UsageError, match="no picture can be held out"):
        learn(path, "x", warm, shots=1, keep="best")
