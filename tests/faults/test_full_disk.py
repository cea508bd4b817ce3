"""A disk that fills up anywhere in an operation: a clear error, the old state, no space lost.

Two ways to get one: a tmpfs of a few kilobytes, which needs root, and a limit on the size of files,
beyond which every write fails as on a full disk.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tiny_registry as tiny
from operations import OPERATIONS, Operation
from volumes import small_disk

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.verification import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

BY_NAME = {operation.name: operation for operation in OPERATIONS}
QUICK = ("learn, fourth task", "rollback")
THOROUGH = ("learn, first task", "import", "forget", "undo", "gc")
NAMES = [*QUICK, *(pytest.param(name, marks=pytest.mark.thorough) for name in THOROUGH)]
ROOM = (*range(0, 200, 16), 400)
"""Free KiB on the disk: from too little to lock the registry, to enough for everything."""
FILE_SIZES = (0, 300, 900, 2_000, 3_000, 4_000, 6_000, 8_500, 17_000, 25_000, 34_000, 50_000)
FILE_SIZES += (67_000, 84_000, 100_000, 120_000, 150_000)
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Limit the size of files; Python ignores the signal for it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Trial:
    """An operation on copies of one prepared folder; counts how the runs ended."""

    def __init__(self, name: str, room: Path) -> None:
        self.operation: Operation = BY_NAME[name]
        self.prepared = room / "prepared"
        self.prepared.mkdir()
        self.operation.prepare(self.prepared)
        (self.prepared / "registry" / "reserve").unlink(missing_ok=True)  # the space would suffice
        self.old = self.operation.seen(self.copy(room / "old"))
        whole = self.copy(room / "new")
        self.operation.run(whole)
        self.new = self.operation.seen(whole)
        self.failed = self.went_well = 0

    def copy(self, place: Path) -> Path:
        shutil.copytree(self.prepared, place, dirs_exist_ok=True)
        return place

    def run(self, folder: Path) -> ConduError | None:
        """Run it on a disk that may be full; only our own error is expected."""
        try:
            self.operation.run(folder)
        except ConduError as error:
            self.failed += 1
            assert_clear(error)
            return error
        self.went_well += 1
        return None

    def check(self, folder: Path, error: ConduError | None) -> None:
        """With space again: the state is right, and the operation can be finished."""
        registry = Registry.open(folder / "registry")
        found = verify(registry)
        assert not found.problems, f"after {error}: {found.problems}"
        assert not list(registry.paths.tmp.iterdir()), f"after {error}"
        seen = self.operation.seen(folder)
        # Once gc has recorded sessions as collected, they are gone, wherever it fails later.
        failed = (self.old, self.new) if self.operation.name == "gc" else (self.old,)
        assert seen in (failed if error else (self.new,)), f"after {error}"
        if error is not None:
            assert not found.leftovers, f"after {error}: {found.leftovers}"
            assert self.operation.learns or not registry.waiting.paths()
            assert ("is kept" in hint_of(error)) == bool(registry.waiting.paths()), hint_of(error)
            (self.operation.finish or self.operation.run)(folder)  # now there is space
            assert self.operation.seen(folder) == self.new
        collect(registry, None)
        found = verify(registry)
        assert not found.problems
        assert not found.leftovers
        assert not registry.waiting.paths()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_leaves_the_old_state_and_takes_no_space(name: str, tmp_path: Path) -> None:
    trial = Trial(name, tmp_path)
    disk, roomy = tmp_path / "disk", tmp_path / "roomy"
    for room in ROOM:
        with small_disk(disk, room + occupied(trial.prepared)):
            trial.copy(disk)
            error = trial.run(disk)
            shutil.rmtree(roomy, ignore_errors=True)
            shutil.copytree(disk, roomy)
        trial.check(roomy, error)
    assert trial.failed >= 3
    assert trial.went_well


@pytest.mark.slow
def test_a_disk_without_a_free_byte_can_be_read_and_cleaned(tmp_path: Path) -> None:
    tiny.create(tmp_path / "registry", 2)
    with small_disk(tmp_path / "disk", occupied(tmp_path / "registry") + 400) as disk:
        place = shutil.copytree(tmp_path / "registry", disk / "registry")
        garbage = Registry.open(place).blobs.put({"x": np.zeros(9, np.float32)}).sha256
        with suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(1024))
        registry = Registry.open(place)
        assert len(registry.sessions()) == 2
        assert verify(registry).problems == ()
        collect(registry, None)
        assert not registry.blobs.exists(garbage)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Registry]:
    """A registry of three sessions, the first two tagged, on a disk without a free byte."""
    registry = tiny.create(tmp_path / "registry", 3)
    first, second = registry.sessions()[:0:-1]
    registry.tag("first", first, "condu tag first")
    registry.tag("second", second, "condu tag second")
    with small_disk(tmp_path / "disk", occupied(tmp_path / "registry") + 400) as disk:
        registry = Registry.open(shutil.copytree(tmp_path / "registry", disk / "registry"))
        with suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(1024))
        yield registry


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("tag", "now"),
        ("tag", "--delete", "second"),
        ("rollback",),
        ("forget", "task1"),
        ("rename", "task1", "other"),
        ("gc",),
    ],
)
def test_a_full_disk_leaves_room_to_get_out_of_it(
    full_disk: Registry, command: tuple[str, ...]
) -> None:
    run_condu(full_disk, *command)
    assert not full_disk.paths.reserve.exists() or command == ("gc",)
    assert verify(full_disk).problems == ()


@pytest.mark.slow
def test_a_full_disk_is_emptied_by_removing_old_sessions(full_disk: Registry) -> None:
    before = shutil.disk_usage(full_disk.path).free
    run_condu(full_disk, "tag", "--delete", "first")
    run_condu(full_disk, "tag", "--delete", "second")
    run_condu(full_disk, "gc", "--keep", "1")
    assert shutil.disk_usage(full_disk.path).free > before
    assert len(full_disk.history().live) == 1
    assert verify(full_disk).problems == ()


def run_condu(registry: Registry, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "condu_cli", *command, "--yes", "--registry", registry.path],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_write_that_fails_leaves_the_old_state(name: str, tmp_path: Path) -> None:
    trial = Trial(name, tmp_path)
    folder = tmp_path / "work"
    for size in FILE_SIZES:
        shutil.rmtree(folder, ignore_errors=True)
        trial.copy(folder)
        with small_files(size):
            error = trial.run(folder)
        trial.check(folder, error)
    assert trial.failed >= 1
    assert trial.went_well


def assert_clear(error: ConduError) -> None:
    assert hint_of(error)
    assert error.exit_code in (1, 11), error
    assert "\n" not in error.message


def occupied(folder: Path) -> int:
    """KiB that a copy takes on a tmpfs: whole pages, and some for the root."""
    pages = sum(-(-path.stat().st_size // 4096) for path in folder.rglob("*") if path.is_file())
    return 4 * pages + 4


def test_a_collector_frees_a_disk_that_is_full(tmp_path: Path) -> None:
    """What it removes must go before it stores anything."""
    trial = Trial("gc", tmp_path)
    registry = Registry.open(trial.prepared / "registry")
    dead = registry.paths.tmp / "otherhost-1-0123456789abcdef.safetensors"
    dead.write_bytes(bytes(100_000))
    os.utime(dead, (0, 0))
    with small_disk(tmp_path / "disk", occupied(trial.prepared) + 44) as disk:
        trial.copy(disk)
        full = disk / "registry" / "full"
        with full.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(full, full.stat().st_size - 44 * 1024)  # for the log of SQLite alone
        assert trial.run(disk) is None
        full.unlink()
        assert trial.operation.seen(disk) == trial.new


@pytest.mark.parametrize("command", [("forget", "task1"), ("rollback", "-n", "2")])
@pytest.mark.parametrize("size", [0, 1_500, 30_000])
def test_the_command_line_says_one_clear_line(
    command: tuple[str, ...], size: int, tmp_path: Path
) -> None:
    registry = tiny.create(tmp_path / "registry", 4)
    head = registry.head()

    with small_files(size):  # the process inherits it
        done = subprocess.run(
            [sys.executable, "-m", "condu_cli", *command, "--registry", registry.path],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if size == 30_000 and command[0] == "rollback":  # too little for SQLite's shared memory alone
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode in (1, 11), done.stderr
        assert registry.head() == head
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4
    assert not verify(registry).problems
