"""Learn: plan, train, keep the expert, unify, commit; nothing on disk before it is trained."""

import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from made_registries import flip, made_expert, made_registry
from safetensors.torch import save_file

from condu_cli.backbone.catalog import load_base
from condu_cli.core.prototypes import Prototypes
from condu_cli.errors import (
    BaseModelError,
    ConduError,
    DataError,
    HeadMovedError,
    IntegrityError,
    NoRegistryError,
    PartialError,
    UsageError,
)
from condu_cli.registry.repository import Registry
from condu_cli.registry.task_files import TaskFiles
from condu_cli.workflows import committing, learning
from condu_cli.workflows.committing import keep_expert
from condu_cli.workflows.learning import Learner
from condu_cli.workflows.moving_head import roll_back
from condu_cli.workflows.opening import open_if_there, refuse_existing
from condu_cli.workflows.planning import LearnRequest
from condu_cli.workflows.resuming import resume
from condu_cli.workflows.workspace import Workspace, new_config


@pytest.fixture
def path(tmp_path):
    """Where a registry could be, and is not yet."""
    return tmp_path / "new" / "registry"


@pytest.fixture
def planned(learner):
    def plan(path, data, **values):
        values = {"task": "warm", "base": "tiny", **values}
        return learner(path, values.pop("task"), data, **values).plan()

    return plan


# The plan


def test_a_plan_settles_everything_and_writes_nothing(path, warm, planned):
    plan = planned(path, warm, iterations=20, seed=3, templates=("a {} square.", "{}"))
    assert plan.creates_registry is True
    assert plan.base_id == "tiny"
    assert plan.data.class_names == ("blue", "red")
    assert (len(plan.data.train), len(plan.data.test)) == (16, 4)
    assert plan.recipe.iterations == 20
    assert plan.recipe.warmup_iterations == 2
    assert plan.recipe.template == "a {} square."
    assert plan.recipe.seed == 3
    assert not path.parent.exists()


def test_what_is_not_given_comes_from_the_preset(path, warm, planned):
    plan = planned(path, warm)
    assert plan.preset.name == "clip, full"
    assert plan.overridden == ()
    assert plan.recipe.iterations == plan.preset.values["iterations"] == 1000
    assert plan.recipe.learning_rate == plan.preset.values["learning_rate"] == 1e-5
    assert plan.recipe.batch_size == 32
    assert plan.recipe.image_size == 32
    assert plan.recipe.validate_every == 0


def test_what_is_given_is_told_apart_from_the_preset(path, warm, planned):
    plan = planned(path, warm, learning_rate=0.1, weight_decay=0.2)
    assert plan.overridden == ("learning_rate", "weight_decay")
    assert plan.recipe.weight_decay == 0.2


def test_epochs_are_passes_over_the_pictures(path, warm, planned):
    assert planned(path, warm, epochs=3, batch_size=8).recipe.iterations == 6  # of 16 pictures
    assert planned(path, warm, epochs=0.1).recipe.iterations == 1
    assert planned(path, warm, epochs=2, batch_size=100).recipe.iterations == 2
    with pytest.raises(UsageError, match="--epochs and --iterations"):
        planned(path, warm, epochs=1, iterations=1)


@pytest.mark.parametrize(
    "values", [{"validate_every": 2}, {"keep": "best"}, {"patience": 2}, {"validation_share": 0.25}]
)
def test_whatever_needs_a_measurement_holds_pictures_out(path, warm, planned, values):
    plan = planned(path, warm, iterations=20, **values)
    held_out = 4 if "validation_share" in values else 2
    assert (len(plan.data.train), len(plan.validation)) == (16 - held_out, held_out)
    assert plan.recipe.validate_every == 2
    assert plan.recipe.validation_share == values.get("validation_share", 0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0.0}, "must be above 0"),
        ({"label_smoothing": 1.0}, "from 0 to below 1"),
        ({"validation_share": 1.0}, "from 0 to below 1"),
        ({"precision": "float8"}, "no such format"),
        ({"limit": 1}, "fewer pictures than classes"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(path, warm, planned, values, message):
    with pytest.raises(UsageError, match=message):
        planned(path, warm, **values)


def test_shots_reduce_the_training_pictures_only(path, warm, planned):
    plan = planned(path, warm, shots=2)
    assert (len(plan.data.train), len(plan.data.test)) == (4, 4)


def test_a_fixed_size_tower_takes_no_other_image_size(path, warm, planned):
    assert planned(path, warm, image_size=32).recipe.image_size == 32
    with pytest.raises(UsageError, match="takes pictures of 32 pixels only"):
        planned(path, warm, image_size=64)


@pytest.mark.parametrize("rate", [0.0, -1e-3, float("nan")])
def test_the_learning_rate_must_be_positive(path, warm, rate, planned):
    with pytest.raises(UsageError, match="learning rate must be above 0"):
        planned(path, warm, learning_rate=rate)


@pytest.mark.parametrize("task", ["", "a/b", "..", ".hidden", "@", "-x"])
def test_a_name_that_cannot_be_a_task_is_refused_at_once(path, warm, task):
    with pytest.raises(UsageError):
        Learner(path, LearnRequest(task=task, data=warm))


def test_something_else_at_the_registrys_place_is_refused(tmp_path, warm):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NoRegistryError):
        Learner(tmp_path, LearnRequest(task="warm", data=warm))


# From nothing to a session


def test_the_first_task_creates_the_registry(path, warm, learn):
    summary = learn(path, "warm", warm)
    session = Registry.open(path).head()
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


def test_one_task_alone_is_stored_exactly(path, warm, learn):
    learn(path, "warm", warm)
    entry = Registry.open(path).head().entry("warm")
    assert entry.rescaler == 1.0
    assert entry.drift is None
    assert 0 < entry.mask_density < 1


def test_the_same_seed_gives_the_same_expert(tmp_path, warm, learn):
    def part(name, seed):
        learn(tmp_path / name, "warm", warm, iterations=3, seed=seed)
        head = Registry.open(tmp_path / name).head()
        return head.shared, head.entry("warm").part

    assert part("a", 1) == part("b", 1)
    assert part("a2", 1) != part("c", 2)


def test_the_training_record_says_how_the_expert_was_made(path, warm, learn):
    learn(path, "warm", warm, iterations=3, shots=5, seed=7)
    record = Registry.open(path).head().entry("warm").expert.training
    assert record["recipe"]["iterations"] == 3
    assert record["recipe"]["seed"] == 7
    assert record["shots"] == 5
    assert "data" not in record  # it travels with the registry; see `sources` for the folder
    assert str(warm.resolve()) not in json.dumps(record)
    assert record["split"] == "random 80/20, seed 42"
    assert (record["train_images"], record["test_images"]) == (10, 4)
    assert {"condu", "torch", "python"} <= set(record["versions"])
    assert json.loads(json.dumps(record)) == record


def test_prototypes_come_from_the_base_model_and_count_the_training_pictures(
    workspace, path, warm, learn
):
    head = workspace.head()
    prototypes = workspace.prototypes(head, head.entry("warm"))
    assert prototypes.counts.tolist() == [8, 8]
    learn(path, "warm", warm, iterations=1)  # another expert of the same base model
    other = Registry.open(path)
    again = Prototypes.from_arrays(other.blobs.open(other.head().entry("warm").expert.prototypes))
    assert np.array_equal(again.image, prototypes.image)


def test_progress_passes_through_all_stages(path, warm, learn):
    events = []
    learn(path, "warm", warm, events.append, iterations=3)
    assert list(dict.fromkeys(e.stage for e in events)) == ["prototypes", "training"]
    last = {e.stage: (e.done, e.total) for e in events}
    assert last == {"prototypes": (16, 16), "training": (3, 3)}
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
    # A row in which an expert loses every parameter has none to give its norm back to.
    assert head.entry("warm").l1_norm == pytest.approx(first.entry("warm").l1_norm, rel=0.01)
    assert head.entry("warm").drift > 0


def test_a_known_task_is_refused_before_any_training(registry_path, warm):
    with pytest.raises(UsageError, match="'warm' is learned already") as caught:
        Learner(registry_path, LearnRequest(task="warm", data=warm))
    assert "condu forget warm" in caught.value.hint


def test_a_task_that_was_rolled_back_can_be_learned_again(registry_path, plants, learn):
    registry = Registry.open(registry_path)
    roll_back(registry, lambda r: r.rollback_target(1), "rollback")
    summary = learn(registry_path, "plants", plants, iterations=2)
    assert Registry.open(registry_path).head().id == summary.session


def test_the_registrys_base_model_needs_no_naming(registry_path, warm, planned):
    assert planned(registry_path, warm, task="third", base=None).base_id == "tiny"


def test_another_base_model_than_the_registrys_is_refused(registry_path, warm, planned):
    with pytest.raises(UsageError, match="belongs to base model tiny, not mini"):
        planned(registry_path, warm, task="third", base="mini")


# The folder of the pictures stays on this machine


def test_the_folder_of_the_pictures_is_kept_beside_the_sessions(path, warm, learn):
    learn(path, "warm", warm, iterations=1)
    registry = Registry.open(path)
    assert registry.folder_of(registry.head().entry("warm")) == str(warm.resolve())


# HEAD moves while a task is trained


def other_commits(learn, path, data, others, task="other"):
    """A progress callback: after the first step of training somebody else commits."""

    def somebody_else_commits(event):
        if event.stage == "training" and event.done == 1:
            others.append(learn(path, task, data, iterations=2).session)

    return somebody_else_commits


def test_a_session_committed_meanwhile_stops_the_commit_and_the_expert_is_kept(
    registry_path, warm, learn
):
    registry, others = Registry.open(registry_path), []
    before = registry.head()
    with pytest.raises(HeadMovedError) as caught:
        learn(
            registry_path,
            "third",
            warm,
            other_commits(learn, registry_path, warm, others),
            iterations=2,
        )
    assert caught.value.exit_code == 11
    assert f"from {before.id[:12]} to {others[0][:12]}" in caught.value.message
    assert "condu learn --task third --resume" in caught.value.hint
    assert registry.head().id == others[0]
    assert [expert.task for expert in registry.waiting.all()] == ["third"]


def test_the_kept_expert_is_committed_by_resume_on_what_is_head_now(registry_path, warm, learn):
    registry, others = Registry.open(registry_path), []
    with pytest.raises(HeadMovedError):
        learn(
            registry_path,
            "third",
            warm,
            other_commits(learn, registry_path, warm, others),
            iterations=2,
        )
    (done,) = resume(registry, "third")
    summary = done.summary
    assert (done.task, done.session) == ("third", registry.head())
    head = registry.head()
    assert (head.id, head.parent) == (summary.session, others[0])
    assert [entry.name for entry in head.entries] == ["warm", "plants", "other", "third"]
    assert (summary.iterations, summary.images, summary.classes) == (2, 16, 2)
    assert summary.train_seconds > 0
    assert registry.waiting.paths() == []
    assert registry.folder_of(head.entry("third")) == str(warm.resolve())


def test_resume_commits_bit_for_bit_what_training_gave(
    tmp_path, registry_path, warm, plants, learn
):
    straight = shutil.copytree(registry_path, tmp_path / "straight")
    learn(straight, "other", plants, iterations=2)
    learn(straight, "third", warm, iterations=2)
    with pytest.raises(HeadMovedError):
        learn(
            registry_path,
            "third",
            warm,
            other_commits(learn, registry_path, plants, []),
            iterations=2,
        )
    resume(Registry.open(registry_path), None)
    one, other = Registry.open(straight).head(), Registry.open(registry_path).head()
    assert one.state_blobs() == other.state_blobs()


def test_a_registry_created_meanwhile_keeps_the_expert(path, warm, plants, learn):
    others = []
    with pytest.raises(HeadMovedError, match="from the empty state to"):
        learn(path, "warm", warm, other_commits(learn, path, plants, others), iterations=2)
    registry = Registry.open(path)
    assert registry.head().id == others[0]
    resume(registry, "warm")
    assert [entry.name for entry in registry.head().entries] == ["other", "warm"]


def test_the_same_task_committed_meanwhile_keeps_head_and_the_expert(path, warm, learn):
    first = []
    with pytest.raises(HeadMovedError):
        learn(path, "warm", warm, other_commits(learn, path, warm, first, "warm"), iterations=2)
    registry = Registry.open(path)
    assert registry.head().id == first[0]
    with pytest.raises(UsageError, match="learned already"):
        resume(registry, "warm")
    assert [expert.task for expert in registry.waiting.all()] == ["warm"]


# An expert waits


@pytest.fixture
def waiting(registry_path, warm, learn, monkeypatch):
    """A registry in whose folder `trained` an expert of `third` waits: its commit failed."""

    def full(*_args, **_values):
        raise ConduError("no space left", "free some space")

    with monkeypatch.context() as patch:
        patch.setattr(committing, "draft_session", full)
        with pytest.raises(ConduError, match="no space left") as caught:
            learn(registry_path, "third", warm, iterations=1)
    assert caught.value.hint == (
        "free some space; the trained expert is kept: condu learn --task third --resume commits it"
    )
    return Registry.open(registry_path)


def test_a_commit_that_fails_keeps_the_expert_and_head(waiting, learned):
    assert waiting.head() == Registry.open(learned).head()
    (done,) = resume(waiting, None)
    assert done.task == done.summary.task == "third"
    assert waiting.head().id == done.summary.session


def test_a_waiting_expert_is_not_trained_again_by_mistake(waiting, warm):
    with pytest.raises(UsageError, match="waits to be committed") as caught:
        Learner(waiting.path, LearnRequest(task="third", data=warm))
    assert "--resume" in caught.value.hint
    assert "--retrain" in caught.value.hint
    Learner(waiting.path, LearnRequest(task="fourth", data=warm))


def test_training_again_on_purpose_takes_the_place_of_what_waits(waiting, warm, learn):
    summary = learn(waiting.path, "third", warm, iterations=2, retrain=True)
    assert waiting.head().entry("third").expert.training["recipe"]["iterations"] == 2
    assert waiting.head().id == summary.session
    assert waiting.waiting.paths() == []


def test_what_waits_stays_while_training_again_fails(waiting, warm, learn):
    def interrupt(event):
        if event.stage == "training":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(waiting.path, "third", warm, interrupt, retrain=True)
    assert len(waiting.waiting.paths()) == 1


def test_a_damaged_expert_of_another_task_is_in_nobodys_way(waiting, warm, learn):
    (path,) = waiting.waiting.paths()
    path.write_bytes(path.read_bytes()[:10])
    summary = learn(waiting.path, "fourth", warm, iterations=1)
    assert waiting.head().id == summary.session
    assert waiting.waiting.paths() == [path]


def test_an_expert_of_another_task_may_go_at_any_time(waiting, warm, learn, monkeypatch):
    """Another process commits it after this one has listed what waits."""
    listed = TaskFiles.paths

    def listed_and_gone(*args):
        found = listed(*args)
        for path in waiting.paths.trained.iterdir():
            if path.name.startswith("third."):
                path.unlink()
        return found

    monkeypatch.setattr(TaskFiles, "paths", listed_and_gone)
    summary = learn(waiting.path, "fourth", warm, iterations=1)
    assert waiting.head().id == summary.session


@pytest.mark.parametrize("retrain", [False, True])
def test_an_expert_that_another_process_keeps_meanwhile_is_left(
    registry_path, warm, learn, retrain
):
    registry, kept = Registry.open(registry_path), []

    def keep(event):
        if event.stage == "training" and event.done == 1:
            kept.append(registry.waiting.save("third", {"x": np.zeros(3)}, {}).path)

    learn(registry_path, "third", warm, keep, iterations=2, retrain=retrain)
    assert registry.head().entries[-1].name == "third"
    assert registry.waiting.paths() == kept


# Several wait


@pytest.fixture
def several(tmp_path):
    """A registry in which experts of a, b and of a task that HEAD has wait, in this order."""
    registry = made_registry(tmp_path / "made", "birds")
    for seconds, (task, seed) in enumerate([("a", 0), ("birds", 1), ("b", 0)]):
        path = keep_expert(registry, made_expert(task, seed)).path
        os.utime(path, (seconds, seconds))
    return registry


def test_one_that_cannot_be_committed_does_not_keep_the_others_back(several):
    (kept,), told = several.waiting.paths("birds"), []
    with pytest.raises(
        PartialError, match="1 of 3 kept experts still wait: task 'birds'"
    ) as caught:
        resume(several, None, on_done=told.append)
    assert caught.value.exit_code == 3
    assert "condu forget birds" in caught.value.hint
    assert [entry.name for entry in several.head().entries] == ["birds", "a", "b"]
    assert [(done.task, done.summary.tasks) for done in told] == [("a", 2), ("b", 3)]
    assert several.waiting.paths() == [kept]


def test_of_two_experts_of_a_task_the_later_one_is_committed(tmp_path):
    registry = made_registry(tmp_path / "made", "birds")
    for seconds, seed in enumerate((0, 1)):
        path = keep_expert(registry, made_expert("a", seed)).path
        os.utime(path, (seconds, seconds))
    later = registry.waiting.open(path).record["training"]["run"]
    (done,) = resume(registry, None)
    assert registry.head().entry("a").expert.training["run"] == later
    assert done.session == registry.head()
    assert registry.waiting.paths() == []


def test_where_none_can_be_committed_the_first_error_is_raised(several):
    paths = several.waiting.paths()
    for seconds, path in enumerate(paths):
        flip(path, -1)
        os.utime(path, (seconds, seconds))  # they come in the order of their times
    with pytest.raises(IntegrityError, match=f"trained expert {paths[0]} cannot be used"):
        resume(several, None)
    assert several.waiting.paths() == paths


def test_what_a_session_has_already_is_answered_with_it(several):
    path = several.waiting.paths("b")[0]
    content = path.read_bytes()
    (done,) = resume(several, "b")
    path.write_bytes(content)
    (again,) = resume(several, "b")
    assert (again.task, again.summary, again.session) == ("b", None, done.session)
    assert several.waiting.paths("b") == []


# What goes wrong


@pytest.mark.parametrize("room", [True, False])
def test_what_there_is_no_room_to_keep_is_not_trained(path, warm, learn, monkeypatch, room):
    needed = 2 * 4 * new_config(load_base("tiny")).parameter_count
    free = needed if room else needed - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    events = []
    if room:
        assert learn(path, "warm", warm, iterations=1).tasks == 1
        return
    with pytest.raises(ConduError, match=r"MB left; to keep and commit an expert takes") as caught:
        learn(path, "warm", warm, events.append, iterations=1)
    assert "condu gc" in caught.value.hint
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


def test_an_interruption_leaves_an_existing_registry_as_it_was(registry_path, warm, learn):
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
    training = Registry.open(path).head().entry("broken").expert.training
    assert len(summary.unreadable) == training["unreadable_images"] > 0
    assert all("3.png: not a picture" in reason for reason in summary.unreadable)
    assert summary.images == training["train_images"] == 16 - len(summary.unreadable)


def test_too_many_unreadable_pictures_are_found_before_training(
    path, make_pictures, tmp_path, learn
):
    data = make_pictures(tmp_path / "data", ("a", "b"), 10, 16)
    for picture in data.rglob("*3.png"):
        picture.write_text("no picture")
    events = []
    with pytest.raises(DataError, match=r"of 16 pictures cannot be read") as caught:
        learn(path, "broken", data, events.append, max_unreadable=0)
    assert "--max-unreadable" in caught.value.hint
    assert {event.stage for event in events} == {"prototypes"}
    assert not path.parent.exists()


def test_training_that_diverges_leaves_no_registry(path, warm, learn):
    with pytest.raises(DataError, match="diverged"):
        learn(path, "warm", warm, learning_rate=float("inf"))
    assert not path.parent.exists()


def test_an_expert_with_infinite_numbers_is_not_committed(path, warm, learn, monkeypatch):
    def overflowing(base, expert):
        return {
            name: np.full(p.shape, np.inf, np.float32)
            for name, p in base.trainable_parameters().items()
        }

    monkeypatch.setattr(learning, "delta_of", overflowing)
    with pytest.raises(ConduError, match="cannot be unified"):
        learn(path, "warm", warm, iterations=1)
    assert not path.parent.exists()


def test_a_damaged_session_is_not_built_upon(registry_path, warm, learn):
    head = Registry.open(registry_path).head()
    Registry.open(registry_path).blobs.path(head.entry("warm").part).unlink()
    with pytest.raises(IntegrityError):
        learn(registry_path, "third", warm, iterations=1)
    assert Registry.open(registry_path).head() == head


def test_a_damaged_session_keeps_the_expert_until_it_is_whole_again(registry_path, warm, learn):
    registry = Registry.open(registry_path)
    path = registry.blobs.path(registry.head().shared)
    sound = path.read_bytes()
    flip(path, -1)
    with pytest.raises(IntegrityError) as caught:
        learn(registry_path, "third", warm, iterations=1)
    assert "condu learn --task third --resume" in caught.value.hint
    path.write_bytes(sound)
    assert resume(registry, "third")[0].summary.tasks == 3


# Whose base model?


@pytest.fixture
def foreign(tmp_path):
    """A registry that was made with other weights under the same name."""
    config = new_config(load_base("tiny"))
    other = replace(config, base=replace(config.base, weights_sha256="0" * 64))
    return Registry.create(tmp_path / "foreign", other)


def test_other_weights_than_the_registrys_are_an_error(foreign, warm, planned):
    with pytest.raises(BaseModelError, match="with weights 000000") as caught:
        planned(foreign.path, warm)
    assert caught.value.exit_code == 13


def test_condu_base_may_name_the_same_weights_elsewhere(
    registry_path, tmp_path, monkeypatch, warm, planned
):
    state = load_base("tiny").clip.state_dict()
    save_file(state, tmp_path / "moved.safetensors")
    monkeypatch.setenv("CONDU_BASE", f"condu-tiny:{tmp_path / 'moved.safetensors'}")
    assert planned(registry_path, warm, task="third", base=None).recipe.image_size == 32


def test_condu_base_with_other_weights_is_an_error(registry_path, tmp_path, monkeypatch):
    state = {name: tensor.clone() for name, tensor in load_base("tiny").clip.state_dict().items()}
    state["visual.proj"][0, 0] += 1
    save_file(state, tmp_path / "changed.safetensors")
    monkeypatch.setenv("CONDU_BASE", f"condu-tiny:{tmp_path / 'changed.safetensors'}")
    with pytest.raises(BaseModelError, match="belongs to base model tiny with weights"):
        _ = Workspace(Registry.open(registry_path)).base


def test_a_new_registry_describes_the_base_model():
    base = load_base("tiny")
    config = new_config(base)
    assert config.base.weights_sha256 == base.info.weights_sha256
    assert [p.name for p in config.parameters] == list(base.trainable_parameters())
    assert config.parameter_count == sum(p.numel() for p in base.trainable_parameters().values())


@pytest.mark.parametrize(("train", "prefix"), [("image", True), ("text", False)])
def test_a_registry_may_train_one_tower_only(train, prefix):
    base = load_base("tiny")
    config = new_config(base, train=train)
    names = {p.name for p in config.parameters}
    assert names
    assert all(name.startswith("visual.") == prefix for name in names)
    assert names < set(base.trainable_parameters())


@pytest.mark.parametrize("train", ["image", "text"])
def test_a_registry_of_one_tower_learns_and_leaves_the_other_as_it_is(path, warm, learn, train):
    base = load_base("tiny")
    registry = Registry.create(path, new_config(base, train=train))
    learn(path, "warm", warm, iterations=3)
    workspace = Workspace(registry)
    head = workspace.head()
    expert = workspace.expert(head, head.entry("warm")).clip.state_dict()
    original = base.clip.state_dict()
    trained = {p.name for p in registry.config.parameters}
    changed = {n for n in original if not bool((expert[n] == original[n]).all())}
    assert changed
    assert changed <= trained


# Opening


def test_where_nothing_is_a_registry_could_be(tmp_path):
    assert open_if_there(tmp_path / "nowhere") is None
    assert open_if_there(tmp_path) is None
    refuse_existing(tmp_path)


def test_an_existing_registry_is_not_created_again(registry_path):
    assert open_if_there(registry_path) is not None
    with pytest.raises(UsageError, match="already"):
        refuse_existing(registry_path)


def test_a_checkpoint_may_be_named_again_from_its_own_folder(
    tmp_path, warm, plants, learn, monkeypatch
):
    from safetensors.torch import save_file

    from condu_cli.backbone.catalog import load_base

    save_file(load_base("tiny").clip.state_dict(), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    registry = tmp_path / "named"
    learn(registry, "warm", warm, base="condu-tiny:w.safetensors")
    assert learn(registry, "plants", plants, base="condu-tiny:w.safetensors").tasks == 2


# What must not cost a training


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_a_training_outlasts_whoever_watches_it(path, warm, learn, error):
    def gone(event):
        raise error

    summary = learn(path, "warm", warm, gone, iterations=3)
    assert Registry.open(path).head().id == summary.session


def test_another_registry_at_the_same_place_costs_nobody_a_training(path, warm, learn):
    def create(event):
        if event.stage == "training" and event.done == 1:
            Registry.create(path, new_config(load_base("tiny"), "lora"), command="init")

    summary = learn(path, "warm", warm, create, iterations=3)
    (beside,) = path.parent.glob(f"{path.name}-*")
    assert Registry.open(beside).head().id == summary.session
    assert Registry.open(path).head() is None
    assert any(str(beside) in warning for warning in summary.warnings)


def test_files_of_test_pictures_are_looked_at_before_training(path, warm, learn, monkeypatch):
    told = []
    monkeypatch.setattr(learning, "fingerprint", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learn(path, "warm", warm, told.append, iterations=3)
    assert "training" not in {event.stage for event in told}


def test_little_space_is_said_before_training(path, warm, learn, monkeypatch):
    told = []
    monkeypatch.setattr(learning, "free_bytes", lambda _: 1000)
    learn(path, "warm", warm, told.append, iterations=3)
    (first, *_) = [event for event in told if event.stage == "training"]
    assert first.done == 0
    assert "may not survive an interruption" in first.figures["warning"]
