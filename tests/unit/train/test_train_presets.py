"""Default recipes."""

import json
from importlib.resources import files

import pytest

from condu_cli.train.presets import FEW_SHOTS, preset_for
from condu_cli.train.recipe import Recipe

FAMILIES = ("clip", "mini")
METHODS = ("full", "lora")


@pytest.mark.parametrize(
    ("task", "method", "shots", "rate"),
    [
        ("eurosat", "full", None, 1e-5),
        ("aircraft", "full", None, 5e-5),
        ("mnist", "full", 5, 5e-5),
        ("eurosat", "lora", None, 1.5e-4),
        ("flowers", "lora", None, 1e-5),
        ("aircraft", "lora", 5, 3e-3),
        ("sun397", "lora", 5, 2e-3),
    ],
)
def test_the_papers_data_sets_have_its_learning_rates_with_clip(task, method, shots, rate):
    assert preset_for("clip", method, task, shots=shots).values["learning_rate"] == rate


def test_few_shots_train_half_as_long_with_clip():
    assert preset_for("clip", "full", "eurosat").values["iterations"] == 1000
    assert preset_for("clip", "full", "eurosat", shots=5).values["iterations"] == 500
    assert preset_for("clip", "full", "eurosat", shots=FEW_SHOTS + 1).values["iterations"] == 1000


def test_both_warm_up_over_a_hundred_iterations():
    for shots in (None, 5):
        preset = preset_for("clip", "full", "anything", shots=shots)
        assert preset.warmup_share * preset.values["iterations"] == 100


def test_a_task_of_any_name_gets_the_base_models_preset():
    assert preset_for("clip", "full", "my-cats").values["learning_rate"] == 1e-5
    assert preset_for("clip", "full", "my-cats").name == "clip, full"
    assert preset_for("clip", "full", "eurosat").name == "clip, full, eurosat"


@pytest.mark.parametrize("method", METHODS)
def test_mini_trains_longer_for_many_classes_and_shorter_for_few_pictures(method):
    def iterations(classes, shots=None):
        preset = preset_for("mini", method, "my-cats", classes=classes, shots=shots)
        return preset.values["iterations"]

    assert iterations(10) == iterations(37) < iterations(101) < iterations(196)
    assert all(iterations(count, 5) < iterations(count) for count in (10, 101, 196))


@pytest.mark.parametrize("method", METHODS)
def test_mini_is_tuned_from_a_head_for_two_passes_within_limits(method):
    def values(pictures, shots=None):
        return preset_for(
            "mini", method, "my-cats", pictures=pictures, shots=shots, from_head=True
        ).values

    assert [values(n)["iterations"] for n in (100, 1600, 100_000)] == [30, 100, 150]
    assert values(50, shots=5)["iterations"] == 0
    assert values(1600)["tuned"] == "late"
    assert values(1600)["label_smoothing"] == 0


def test_clip_is_tuned_from_a_head_as_from_the_base_model():
    for shots in (None, 5):
        with_head = preset_for("clip", "full", "eurosat", shots=shots, from_head=True)
        assert with_head == preset_for("clip", "full", "eurosat", shots=shots)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shots", [None, 5])
@pytest.mark.parametrize("from_head", [False, True])
def test_every_preset_makes_a_recipe_and_names_its_source(family, method, shots, from_head):
    preset = preset_for(
        family, method, "eurosat", classes=397, shots=shots, pictures=500, from_head=from_head
    )
    Recipe(**preset.values, image_size=32)
    assert preset.source


def test_the_file_holds_no_other_recipes():
    document = json.loads((files("condu_cli.train") / "recipes.json").read_text("utf-8"))
    assert sorted(document) == sorted(FAMILIES)
    assert all(sorted(methods) == sorted(METHODS) for methods in document.values())
