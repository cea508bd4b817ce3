import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from condu_cli.registry.manifest import Session
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.registry.storage import StorageReport, measure

Learn = Callable[[str], Session]


def bytes_under(root: Path) -> int:
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(root)
        for name in names
    )


def files_under(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*") if not path.is_dir()}


def categories(report: StorageReport) -> dict[Path, str]:
    return {Path(file.path): file.category for file in report.files}


def assert_every_byte_is_counted_once(registry: Registry) -> None:
    sizes = measure(registry)
    assert sizes.total_bytes == bytes_under(registry.path)
    assert sizes.total_bytes == (
        sizes.unified_bytes
        + sizes.mask_bytes
        + sizes.prototype_bytes
        + sizes.head_bytes
        + sizes.history_bytes
        + sizes.metadata_bytes
        + sizes.trained_bytes
        + sizes.run_bytes
    )
    assert set(categories(sizes)) == files_under(registry.path)


def test_an_empty_registry_is_metadata_only(registry: Registry) -> None:
    sizes = measure(registry)
    assert sizes.metadata_bytes == sizes.total_bytes == bytes_under(registry.path)
    assert sizes.tasks == ()
    assert categories(sizes) == {
        Path("README.txt"): "metadata",
        Path("condu.sqlite"): "metadata",
        Path("reserve"): "metadata",
    }


def test_what_head_needs_is_told_apart_from_history(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    sizes = measure(registry)
    size = registry.blobs.size
    assert second.shared is not None
    assert sizes.unified_bytes == size(second.shared)
    assert sizes.mask_bytes == sum(size(entry.part) for entry in second.entries)
    assert sizes.prototype_bytes == sum(size(entry.expert.prototypes) for entry in second.entries)
    assert sizes.history_bytes == sum(size(blob) for blob in first.blobs() - second.blobs())
    assert sizes.history_bytes > 0
    assert_every_byte_is_counted_once(registry)


def test_each_task_has_its_share(registry: Registry, learn: Learn) -> None:
    learn("a")
    head = learn("b")
    tasks = measure(registry).tasks
    assert [task.task for task in tasks] == ["a", "b"]
    for task in tasks:
        entry = head.entry(task.task)
        assert task.part_bytes == registry.blobs.size(entry.part)
        assert task.prototype_bytes == registry.blobs.size(entry.expert.prototypes)


def test_after_a_rollback_the_later_blobs_are_history(registry: Registry, learn: Learn) -> None:
    learn("a")
    before = measure(registry)
    learn("b")
    registry.rollback(registry.target(Aim()), "condu rollback")
    after = measure(registry)
    assert after.unified_bytes == before.unified_bytes
    assert after.mask_bytes == before.mask_bytes
    assert after.history_bytes > 0
    assert_every_byte_is_counted_once(registry)


def test_unreferenced_and_half_written_blobs_are_history(registry: Registry) -> None:
    ref = registry.blobs.put({"x": np.zeros(9, np.float32)})
    (registry.paths.tmp / "1-abc.safetensors").write_bytes(b"12345")
    assert measure(registry).history_bytes == ref.size + 5
    assert_every_byte_is_counted_once(registry)


def test_experts_that_wait_are_counted_apart(registry: Registry, learn: Learn) -> None:
    learn("a")
    before = measure(registry)
    assert before.trained_bytes == 0
    first = registry.waiting.save("b", {"delta/w": np.ones(9, np.float32)}, {"kind": "learn"})
    second = registry.waiting.save("c", {"delta/w": np.ones(5, np.float32)}, {"kind": "learn"})
    after = measure(registry)
    assert after.trained_bytes == first.size + second.size
    assert after.total_bytes == before.total_bytes + after.trained_bytes
    assert categories(after)[first.path.relative_to(registry.path)] == "trained"
    assert_every_byte_is_counted_once(registry)


def test_a_patch_is_history(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    before = measure(registry)
    patch = registry.blobs.put({"flips": np.zeros(3, np.uint8)})
    with registry.lock("gc"):
        registry.record_pack(first, second, patch)
        removed = sum(registry.blobs.remove(b) for b in registry.history().spare_blobs())
    after = measure(registry)
    assert removed > 0
    assert after.history_bytes == before.history_bytes + patch.size - removed
    assert_every_byte_is_counted_once(registry)


def test_backups_lock_and_strangers_are_metadata(registry: Registry, learn: Learn) -> None:
    learn("a")
    before = measure(registry)
    (registry.paths.backups / "old.sqlite").write_bytes(b"123")
    (registry.paths.blobs / "stranger").write_bytes(b"4567")
    (registry.paths.blobs / "aa").mkdir(exist_ok=True)
    (registry.paths.blobs / "aa" / "stranger").write_bytes(b"89")
    (registry.path / "dangling").symlink_to("nowhere")
    after = measure(registry)
    assert after.metadata_bytes == before.metadata_bytes + 3 + 4 + 2 + len("nowhere")
    assert after.history_bytes == before.history_bytes
    assert_every_byte_is_counted_once(registry)


def test_a_blob_of_two_tasks_is_counted_once(registry: Registry, learn: Learn) -> None:
    from dataclasses import replace

    first = learn("a")
    entry = first.entry("a")
    session = Session.on(first.id, "import", "b", first.shared, [entry, replace(entry, name="b")])
    with registry.lock("import"):
        registry.commit(session, command="import")
    sizes = measure(registry)
    assert sizes.mask_bytes == registry.blobs.size(entry.part)
    assert [task.part_bytes for task in sizes.tasks] == [sizes.mask_bytes] * 2
    assert_every_byte_is_counted_once(registry)


def test_a_missing_blob_weighs_nothing(registry: Registry, learn: Learn) -> None:
    session = learn("a")
    registry.blobs.path(session.entry("a").part).unlink()
    sizes = measure(registry)
    assert sizes.mask_bytes == 0
    assert sizes.tasks[0].part_bytes == 0
    assert_every_byte_is_counted_once(registry)


def test_while_a_writer_works_its_files_are_counted_too(registry: Registry, learn: Learn) -> None:
    from condu_cli.registry.database.engine import make_engine, write

    learn("a")
    with registry.lock("condu learn"), write(make_engine(registry.paths.database)):
        sizes = measure(registry)
        assert {Path("condu.sqlite-wal"), Path("lock"), Path("lock.holder")} <= set(
            categories(sizes)
        )
        assert_every_byte_is_counted_once(registry)
