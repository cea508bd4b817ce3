"""Learn: plan, train, keep the expert, unify, commit; nothing is written before training ends."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from made_registries import flip

from condu_cli.backbone.base_models import load_base
from condu_cli.cli.hints.making import hint_of
from condu_cli.core.arrays import layout
from condu_cli.core.arrays.segments import BLOCK_SIZE
from condu_cli.core.merging import checks, unify
from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.errors import ConduError, DataError, IntegrityError, NoRegistryError, UsageError
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.learning import training
from condu_cli.workflows.learning.learner import Learner
from condu_cli.workflows.learning.planning import LearnRequest
from condu_cli.workflows.learning.resuming import resume
from condu_cli.workflows.opening.workspace import new_config
from condu_cli.workflows.sessions.moving_head import roll_back


@pytest.mark.parametrize("task", ["", "a/b", "..", ".hidden", "@", "-x"])
def test_a_name_that_cannot_be_a_task_is_refused_at_once(path, warm, task):
    with pytest.raises(UsageError):
        Learner(path, LearnRequest(task=task, data=warm))


def test_something_else_at_the_registrys_place_is_refused(tmp_path, warm):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NoRegistryError):
        Learner(tmp_path, LearnRequest(task="warm", data=warm))


# From nothing to a session


@pytest.fixture(scope="module")
def first(tmp_path_factory, warm, learn):
    """A registry that `learn` made for its first task, and the summary; no test changes it."""
    path = tmp_path_factory.mktemp("first") / "registry"
    summary = learn(path, "warm", warm)
    return Registry.open(path), summary


def test_the_first_task_creates_the_registry(first):
    registry, summary = first
    session = registry.head()
    assert session.id == summary.session
    assert session.parent is None
    assert [entry.name for entry in session.entries] == ["warm"]
    assert (summary.images, summary.classes, summary.tasks) == (16, 2, 1)
    assert summary.final_loss < 0.65  # from ln 2 = 0.69; label smoothing 0.2 keeps it above 0.33
    assert summary.warnings == ()


def test_an_empty_folder_may_become_the_registry(tmp_path, warm, learn):
    (tmp_path / "empty").mkdir()
    learn(tmp_path / "empty", "warm", warm, iterations=1)
    assert Registry.open(tmp_path / "empty").head() is not None


def test_one_task_alone_is_stored_exactly(first):
    entry = first[0].head().entry("warm")
    assert entry.record["rescaler"] == 1.0
    assert entry.drift is None
    assert 0 < entry.record["mask_density"] < 1


def test_the_same_seed_gives_the_same_expert(tmp_path, warm, learn):
    def expert(name, seed):
        learn(tmp_path / name, "warm", warm, iterations=3, seed=seed, head_first=False)
        head = Registry.open(tmp_path / name).head()
        return head.shared, head.entry("warm").part

    one = expert("a", 1)
    assert one == expert("b", 1)
    assert one != expert("c", 2)


def test_the_training_record_says_how_the_expert_was_made(path, warm, learn):
    learn(path, "warm", warm, iterations=3, shots=5, seed=7)
    record = Registry.open(path).head().entry("warm").expert.training
    assert record["recipe"]["iterations"] == 3
    assert record["recipe"]["seed"] == 7
    assert record["shots"] == 5
    assert "data" not in record  # it travels with the registry; see `sources` for the folder
    assert str(warm.resolve()) not in json.dumps(record)
    assert record["split"] == "random 80/20, seed 42"
    assert (record["train_images"], record["validation_images"]) == (8, 2)
    assert record["test_images"] == 4
    assert {"condu", "torch", "python"} <= set(record["versions"])
    assert json.loads(json.dumps(record)) == record


def test_prototypes_come_from_the_base_model_and_count_the_training_pictures(
    first, path, warm, learn
):
    def prototypes_of(registry):
        found = registry.blobs.open(registry.head().entry("warm").expert.prototypes)
        return Prototypes.from_arrays(found)

    prototypes = prototypes_of(first[0])
    assert prototypes.counts.tolist() == [8, 8]
    learn(path, "warm", warm, iterations=1)  # another expert of the same base model
    again = prototypes_of(Registry.open(path))
    assert np.array_equal(again.image, prototypes.image)


def test_progress_passes_through_all_stages(path, warm, learn):
    events = []
    learn(path, "warm", warm, events.append, iterations=3)
    assert list(dict.fromkeys(e.stage for e in events)) == ["prototypes", "training", "choosing"]
    last = {e.stage: (e.done, e.total) for e in events}
    # Two points, each a pass over the 13 pictures that were tuned with and the 3 held out.
    assert last == {"prototypes": (16, 16), "training": (3, 3), "choosing": (32, 32)}
    assert all("loss" in e.figures for e in events if e.stage == "training")


# More tasks


def test_a_second_task_gets_a_session_on_top(registry_path, workspace):
    registry = Registry.open(registry_path)
    head = registry.head()
    assert [entry.name for entry in head.entries] == ["warm", "plants"]
    first = registry.session(head.parent)
    assert [entry.name for entry in first.entries] == ["warm"]
    assert head.entry("warm").learned_in == first.id
    assert head.entry("plants").learned_in == head.id


def test_what_an_old_expert_is_known_by_does_not_change(workspace):
    head = workspace.head()
    first = workspace.registry.session(head.parent)
    assert head.entry("warm").expert == first.entry("warm").expert
    # If an expert loses every parameter of a row, that row's norm cannot be restored.
    assert head.entry("warm").record["l1_norm"] == pytest.approx(
        first.entry("warm").record["l1_norm"], rel=0.01
    )
    assert head.entry("warm").drift > 0


def test_a_known_task_is_refused_before_any_training(registry_path, warm):
    with pytest.raises(UsageError, match="'warm' has already been learned") as caught:
        Learner(registry_path, LearnRequest(task="warm", data=warm))
    assert "condu forget warm" in hint_of(caught.value)


def test_a_task_that_was_rolled_back_can_be_learned_again(registry_path, plants, learn):
    registry = Registry.open(registry_path)
    roll_back(registry, Aim(), "rollback")
    summary = learn(registry_path, "plants", plants, iterations=2)
    assert Registry.open(registry_path).head().id == summary.session


# The pictures' folder is recorded on this machine only


def test_the_folder_of_the_pictures_is_kept_beside_the_sessions(first, warm):
    registry, _ = first
    assert registry.folder_of(registry.head().entry("warm")) == str(warm.resolve())


# Failures


@pytest.mark.parametrize("room", [True, False])
def test_an_expert_without_room_to_keep_it_is_not_trained(path, warm, learn, monkeypatch, room):
    needed = 2 * 4 * new_config(load_base("tiny")).parameter_count
    free = needed if room else needed - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    events = []
    if room:
        assert learn(path, "warm", warm, iterations=1).tasks == 1
        return
    with pytest.raises(
        ConduError, match=r"MB left; saving and committing an expert takes"
    ) as caught:
        learn(path, "warm", warm, events.append, iterations=1)
    assert "condu gc" in hint_of(caught.value)
    assert events == []
    assert not path.parent.exists()


@pytest.mark.parametrize("stage", ["training", "prototypes"])
def test_an_interruption_leaves_no_registry(path, warm, learn, stage):
    def interrupt(event):
        if event.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(path, "warm", warm, interrupt)
    assert not path.parent.exists()


def test_an_interruption_leaves_an_existing_registry_unchanged(registry_path, warm, learn):
    def interrupt(event):
        if event.stage == "training":
            raise KeyboardInterrupt

    def blobs():
        return sorted(p.name for p in (registry_path / "blobs").rglob("*"))

    before = Registry.open(registry_path).head(), blobs()
    with pytest.raises(KeyboardInterrupt):
        learn(registry_path, "third", warm, interrupt)
    assert (Registry.open(registry_path).head(), blobs()) == before


def test_unreadable_pictures_are_left_out_and_named(path, make_pictures, tmp_path, learn):
    data = make_pictures(tmp_path / "data", ("a", "b"), 10, 16)
    broken = sorted((data / "train").rglob("*3.png")) or sorted(data.rglob("*3.png"))
    for picture in broken:
        picture.write_text("no picture")
    summary = learn(path, "broken", data, iterations=2)
    record = Registry.open(path).head().entry("broken").expert.training
    assert len(summary.unreadable) == record["unreadable_images"] > 0
    assert all("3.png: not a picture" in reason for reason in summary.unreadable)
    assert summary.images == 16 - len(summary.unreadable)
    assert summary.images == record["train_images"] + record["validation_images"]


def test_too_many_unreadable_pictures_are_found_before_training(
    path, make_pictures, tmp_path, learn
):
    data = make_pictures(tmp_path / "data", ("a", "b"), 10, 16)
    for picture in data.rglob("*3.png"):
        picture.write_text("no picture")
    events = []
    with pytest.raises(DataError, match=r"of 16 pictures cannot be read") as caught:
        learn(path, "broken", data, events.append, max_unreadable=0)
    assert "--max-unreadable" in hint_of(caught.value)
    assert {event.stage for event in events} == {"prototypes"}
    assert not path.parent.exists()


def test_training_that_diverges_without_a_head_leaves_no_registry(path, warm, learn):
    with pytest.raises(DataError, match="diverged"):
        learn(path, "warm", warm, learning_rate=float("inf"), head_first=False)
    assert not path.parent.exists()


def test_training_that_diverges_keeps_the_head(path, warm, learn):
    summary = learn(path, "warm", warm, learning_rate=float("inf"))
    (warning,) = summary.warnings
    assert "diverged at iteration 2" in warning
    assert "the head is kept" in warning
    assert summary.stages["kept"] == 0
    quick = learn(path.with_name("quick"), "warm", warm, quick=True)
    experts = [Registry.open(p).head() for p in (path, path.with_name("quick"))]
    assert experts[0].shared == experts[1].shared
    assert quick.iterations == 0


def test_an_expert_with_infinite_numbers_is_not_committed(path, warm, learn, monkeypatch):
    def overflowing(base, expert):
        return {
            name: np.full(p.shape, np.inf, np.float32)
            for name, p in base.trainable_parameters().items()
        }

    monkeypatch.setattr(training, "delta_of", overflowing)
    with pytest.raises(ConduError, match="cannot be unified"):
        learn(path, "warm", warm, iterations=1)
    registry = Registry.open(path)  # where the training was saved before the choice
    assert registry.head() is None
    assert registry.runs.paths() == registry.waiting.paths() == []


def test_every_value_of_a_delta_is_checked_once(path, warm, plants, learn, monkeypatch):
    """For NaN, infinity and divergence; the unified delta of earlier tasks is another array."""
    looked_at = []
    real = layout.pattern_fault

    def counted(largest):
        looked_at.append(largest)
        return real(largest)

    for module in (checks, unify):
        monkeypatch.setattr(module, "pattern_fault", counted)
    for task, data in (("warm", warm), ("plants", plants)):
        looked_at.clear()
        learn(path, task, data, iterations=1)
        parameters = Registry.open(path).config.parameters
        assert len(looked_at) == sum(math.ceil(p.size / BLOCK_SIZE) for p in parameters)


def test_a_corrupt_session_is_not_built_upon(registry_path, warm, learn):
    head = Registry.open(registry_path).head()
    Registry.open(registry_path).blobs.path(head.entry("warm").part).unlink()
    with pytest.raises(IntegrityError):
        learn(registry_path, "third", warm, iterations=1)
    assert Registry.open(registry_path).head() == head


def test_a_corrupt_session_keeps_the_expert_until_it_is_whole_again(registry_path, warm, learn):
    registry = Registry.open(registry_path)
    path = registry.blobs.path(registry.head().shared)
    sound = path.read_bytes()
    flip(path, -1)
    with pytest.raises(IntegrityError) as caught:
        learn(registry_path, "third", warm, iterations=1)
    assert "condu learn --task third --resume" in hint_of(caught.value)
    path.write_bytes(sound)
    assert resume(registry, "third")[0].summary.tasks == 3


# Failures that must not lose a training


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_a_training_outlasts_whoever_watches_it(path, warm, learn, error):
    def gone(event):
        raise error

    summary = learn(path, "warm", warm, gone, iterations=3)
    assert Registry.open(path).head().id == summary.session
