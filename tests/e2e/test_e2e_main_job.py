"""The main job on real pictures: learn two tasks, forget neither, ask, measure, roll back.

README's test command runs the demo instead, on embedded pictures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from condu_cli.core.codecs.condu.exact import ExactParameters
from condu_cli.registry.repository import Registry
from condu_cli.workflows.sessions.coding import layout_of

if TYPE_CHECKING:
    from condu_process import Condu

pytestmark = [pytest.mark.slow, pytest.mark.data, pytest.mark.thorough]

# Enough to be far above zero-shot, short enough for every run of the tests.
BRIEF = ("--iterations", "60", "--shots", "40", "--image-size", "112")


@pytest.fixture(scope="module")
def learned(condu: Condu, data: Path) -> tuple[Condu, dict[str, float]]:
    """A registry that learned eurosat, was measured, and then learned pets."""
    condu.ok("init", "--base", "mini")
    summary = condu.json("learn", "--task", "eurosat", "--data", data / "eurosat", *BRIEF)
    assert summary["task"] == "eurosat"
    first = condu.json("evaluate", "--task", "eurosat", "--zero-shot")
    condu.json("learn", "--task", "pets", "--data", data / "oxford_pets", *BRIEF)
    return condu, {"before": first["accuracy"], "zero_shot": first["zero_shot"]}


def test_the_first_task_is_learned_far_above_zero_shot(
    learned: tuple[Condu, dict[str, float]],
) -> None:
    _, figures = learned
    assert figures["before"] > 0.7
    assert figures["before"] > figures["zero_shot"] + 0.5


def test_the_first_task_is_not_forgotten(learned: tuple[Condu, dict[str, float]]) -> None:
    condu, figures = learned
    after = condu.json("evaluate", "--task", "eurosat")
    assert after["n"] == 1000
    assert after["accuracy"] > figures["before"] - 0.05


def test_a_picture_finds_its_task_without_being_told(
    learned: tuple[Condu, dict[str, float]], data: Path
) -> None:
    condu, _ = learned
    folders = ("eurosat/test/forest", "eurosat/test/sealake", "oxford_pets/test/beagle")
    for folder in folders:
        wanted = "pets" if "pets" in folder else "eurosat"
        answers = condu.lines("predict", data / folder)
        routed = [answer["experts"][0]["task"] for answer in answers]
        assert routed.count(wanted) >= 0.9 * len(routed), folder
        assert all(answer["task"] == answer["experts"][0]["task"] for answer in answers)


def test_the_union_of_all_classes_is_answered_well(
    learned: tuple[Condu, dict[str, float]],
) -> None:
    condu, figures = learned
    union = condu.json("evaluate", "--task", "eurosat", "--label-space", "union")
    assert union["label_space"] == "union"
    assert union["accuracy"] > figures["before"] - 0.1


def test_a_photograph_is_told_apart_by_your_own_labels(
    learned: tuple[Condu, dict[str, float]], data: Path
) -> None:
    condu, _ = learned
    wanted = {"beagle": "dog", "bengal": "cat"}
    for breed, animal in wanted.items():
        answers = condu.lines(
            "predict", data / "oxford_pets" / "test" / breed, "--labels", "cat,dog,coffee"
        )
        assert [answer["label"] for answer in answers].count(animal) >= 0.6 * len(answers)
        assert {top["label"] for top in answers[0]["top"]} == {"cat", "dog", "coffee"}


def test_storage_adds_up_byte_for_byte(learned: tuple[Condu, dict[str, float]]) -> None:
    condu, _ = learned
    report = condu.json("storage-report")
    on_disk = sum(
        Path(root, name).stat().st_size
        for root, _, names in os.walk(condu.registry)
        for name in names
    )
    assert report["total_bytes"] == on_disk
    parts = ("unified", "mask", "prototype", "history", "metadata")
    assert sum(report[f"{part}_bytes"] for part in parts) == report["total_bytes"]
    assert report["individual_ft_bytes"] == 2 * report["base_bytes"]


def test_a_task_costs_less_than_one_bit_per_parameter_and_what_it_keeps_exactly(
    learned: tuple[Condu, dict[str, float]],
) -> None:
    condu, _ = learned
    report = condu.json("storage-report")
    config = Registry.open(condu.registry).config
    kept = ExactParameters(layout_of(config), config.codec.options["exact"]).layout.count
    assert 0 < kept < report["parameters"] / 20
    bits, exact = report["parameters"] / 8, 4 * kept
    for task in report["tasks"]:
        # What a task does not change costs almost nothing: all of the text tower, which saves more
        # than the rescalers and the file's header take.
        assert 0 < task["part_bytes"] - exact < bits


def test_rollback_brings_back_the_old_predictions_exactly_and_undo_the_new(
    learned: tuple[Condu, dict[str, float]], data: Path
) -> None:
    condu, _ = learned
    # Not of the first task: without the second one, its expert answers instead.
    pictures = min((data / "oxford_pets" / "test").iterdir())
    new = condu.ok("predict", pictures, "--json")
    sessions = condu.json("log")
    condu.ok("rollback")
    old = condu.ok("predict", pictures, "--json")
    assert old != new
    assert [task["task"] for task in condu.json("ls")] == ["eurosat"]
    condu.ok("rollback", "--undo")
    assert condu.ok("predict", pictures, "--json") == new
    condu.ok("rollback", sessions[-1]["session"][:12])
    assert condu.ok("predict", pictures, "--json") == old
    condu.ok("rollback", "--undo")
