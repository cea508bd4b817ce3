"""The storage report adds up to what is on disk."""

import os
from pathlib import Path

import pytest
from made_registries import learn, made_expert, made_registry

from condu_cli.registry.rollbacks import Aim
from condu_cli.registry.storage import measure
from condu_cli.workflows.sessions.coding import layout_of
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.trained_experts import keep_expert

HEADER = 1024  # bytes of a tensor file besides its tensors
CATEGORIES = ("unified", "mask", "prototype", "head", "history", "metadata", "trained")


@pytest.fixture
def registry(tmp_path):
    return made_registry(tmp_path / "made", "birds", "cars")


def bytes_on_disk(root: Path) -> int:
    return sum(
        Path(folder, name).stat().st_size for folder, _, names in os.walk(root) for name in names
    )


def test_the_categories_add_up_to_every_byte_on_disk(registry):
    found = measure(registry)
    assert sum(getattr(found, f"{name}_bytes") for name in CATEGORIES) == found.total_bytes
    assert found.total_bytes == bytes_on_disk(registry.path)


def test_a_head_is_counted_by_itself_and_for_its_task(registry):
    assert measure(registry).head_bytes == 0
    learn(registry, "dogs", head=True)
    found = measure(registry)
    size = registry.blobs.size(registry.head().entry("dogs").expert.head)
    assert found.head_bytes == size
    assert [task.head_bytes for task in found.tasks] == [0, 0, size]
    assert sum(getattr(found, f"{name}_bytes") for name in CATEGORIES) == found.total_bytes


def test_every_task_of_head_has_its_sizes(registry):
    found = measure(registry)
    head = registry.head()
    assert [task.task for task in found.tasks] == ["birds", "cars"]
    for sizes in found.tasks:
        entry = head.entry(sizes.task)
        assert sizes.part_bytes == registry.blobs.path(entry.part).stat().st_size
    assert sum(task.part_bytes for task in found.tasks) == found.mask_bytes
    assert sum(task.prototype_bytes for task in found.tasks) == found.prototype_bytes


def test_a_task_costs_at_most_a_bit_per_parameter_and_a_float_per_row(registry):
    found = measure(registry)
    assert found.base_bytes == 4 * found.parameters
    assert 0 < found.unified_bytes - found.base_bytes < HEADER
    rows = sum(layout_of(registry.config).row_counts)
    for task in found.tasks:
        assert 0 < task.part_bytes < found.parameters / 8 + 4 * rows + HEADER


def test_what_it_is_compared_with_is_one_full_checkpoint_per_task(registry):
    found = measure(registry)
    assert found.individual_ft_bytes == 2 * found.base_bytes


def test_a_rollback_turns_the_newer_session_into_history(registry):
    before = measure(registry)
    roll_back(registry, Aim(), "rollback")
    after = measure(registry)
    assert [task.task for task in after.tasks] == ["birds"]
    assert after.history_bytes > before.history_bytes
    assert after.total_bytes == bytes_on_disk(registry.path)


def test_experts_that_wait_to_be_committed_are_counted_by_themselves(registry):
    before = measure(registry)
    assert before.trained_bytes == 0
    waiting = keep_expert(registry, made_expert("digits"))
    after = measure(registry)
    assert after.trained_bytes == waiting.path.stat().st_size
    assert after.total_bytes == before.total_bytes + after.trained_bytes
    assert after.total_bytes == bytes_on_disk(registry.path)


def test_an_older_session_costs_its_patch_and_not_its_files(tmp_path):
    registry = made_registry(tmp_path / "made", "birds", "cars", "digits")
    found = measure(registry)
    sizes = {file.path: file for file in found.files if file.category == "history"}
    assert 0 < found.history_bytes < 2 * (found.unified_bytes + found.mask_bytes)
    patches = {pack.patch for pack in registry.packs().values()}
    assert patches <= {path.rsplit("/", 1)[-1] for path in sizes}
