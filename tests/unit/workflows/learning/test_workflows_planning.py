"""What is decided before a training starts: recipe, pictures, refusals."""

import pytest

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, UsageError
from condu_cli.workflows.opening import registry_only


def test_a_plan_settles_everything_and_writes_nothing(path, warm, planned):
    plan = planned(path, warm, iterations=20, seed=3, templates=("a {} square.", "{}"))
    assert plan.creates_registry is True
    assert plan.base_id == "tiny"
    assert plan.data.class_names == ("blue", "red")
    assert (len(plan.data.train), len(plan.validation), len(plan.data.test)) == (13, 3, 4)
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
    assert planned(path, warm, epochs=3, batch_size=8).recipe.iterations == 5  # of 13 pictures
    assert planned(path, warm, epochs=0.1).recipe.iterations == 1
    assert planned(path, warm, epochs=2, batch_size=100).recipe.iterations == 2
    with pytest.raises(UsageError, match="epochs and iterations"):
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
        ({"precision": "float8"}, "unknown number format"),
        ({"limit": 1}, "limit must be at least"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(path, warm, planned, values, message):
    with pytest.raises(UsageError, match=message):
        planned(path, warm, **values)


def test_shots_reduce_the_training_pictures_only(path, warm, planned):
    plan = planned(path, warm, shots=2)
    assert (len(plan.data.train) + len(plan.validation), len(plan.data.test)) == (4, 4)


def test_a_fixed_size_tower_takes_no_other_image_size(path, warm, planned):
    assert planned(path, warm, image_size=32).recipe.image_size == 32
    with pytest.raises(UsageError, match="only accepts pictures of 32 pixels"):
        planned(path, warm, image_size=64)


@pytest.mark.parametrize("rate", [0.0, -1e-3, float("nan")])
def test_the_learning_rate_must_be_positive(path, warm, rate, planned):
    with pytest.raises(UsageError, match="learning_rate must be above 0"):
        planned(path, warm, learning_rate=rate)


def test_crops_are_smaller_than_what_the_expert_sees_unless_training_is_measured(
    path, warm, planned
):
    recipe = planned(path, warm, base="mini").recipe
    assert (recipe.image_size, recipe.crop_size) == (224, 160)
    for values in ({"image_size": 96}, {"keep": "best"}, {"validate_every": 2}):
        assert planned(path, warm, base="mini", **values).recipe.crop_size == 0


def test_a_head_alone_holds_nothing_out(path, warm, planned):
    head = planned(path, warm, iterations=0)
    assert (len(head.data.train), head.validation, head.recipe.validation_share) == (16, (), 0.0)
    asked = planned(path, warm, iterations=0, validation_share=0.25)
    assert (len(asked.data.train), len(asked.validation)) == (12, 4)


# What could not be kept


@pytest.fixture
def read_only(monkeypatch):
    def refused(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(registry_only.tempfile, "TemporaryFile", refused)


@pytest.mark.usefixtures("read_only")
@pytest.mark.parametrize("there", [True, False])
def test_a_plan_for_a_registry_that_cannot_be_written_is_refused(
    registry_path, path, warm, planned, there
):
    with pytest.raises(ConduError, match=r"cannot write to .*: Read-only file system") as caught:
        planned(registry_path if there else path, warm, task="third")
    assert "--registry" in hint_of(caught.value)


def test_a_plan_without_room_to_keep_the_expert_is_refused(path, warm, planned, monkeypatch):
    monkeypatch.setattr(registry_only, "free_bytes", lambda _: 1000)
    with pytest.raises(ConduError, match="has 0 MB left"):
        planned(path, warm)
