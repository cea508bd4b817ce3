import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, IntegrityError, LockedError
from condu_cli.registry.files.lock import RegistryLock

HOLD = (
    "import sys, time; from pathlib import Path;"
    "from condu_cli.registry.files.lock import RegistryLock\n"
    "with RegistryLock(Path(sys.argv[1])).acquire('condu learn --task pets'):\n"
    "    print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def other_process(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run another process that holds the lock until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_it_is_held_inside_the_block_only(path: Path) -> None:
    lock = RegistryLock(path)
    assert not lock.held
    with lock.acquire("learn"):
        assert lock.held
    assert not lock.held
    with lock.acquire("learn", timeout=0):
        assert lock.held


def test_an_exception_releases_it(path: Path) -> None:
    def fail() -> None:
        with RegistryLock(path).acquire("learn"):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with RegistryLock(path).acquire("next", timeout=0):
        pass


def test_the_same_owner_may_take_it_again_inside(path: Path) -> None:
    lock = RegistryLock(path)
    with lock.acquire("outer"):
        with lock.acquire("inner", timeout=0):
            pass
        assert lock.held
        holder = lock.holder()
        assert holder is not None
        assert holder.command == "outer"
    assert not lock.held


def test_two_owners_in_one_process_exclude_each_other(path: Path) -> None:
    with RegistryLock(path).acquire("first"), pytest.raises(LockedError, match="first"):
        RegistryLock(path).acquire("second", timeout=0).__enter__()


def test_another_process_is_kept_out_and_told_who_holds_it(
    path: Path, other_process: "subprocess.Popen[str]"
) -> None:
    began = time.monotonic()
    with pytest.raises(LockedError) as locked, RegistryLock(path).acquire("mine", timeout=0.3):
        pytest.fail("both hold the lock")
    assert time.monotonic() - began >= 0.3
    message = locked.value.message
    assert "'condu learn --task pets'" in message
    assert f"process {other_process.pid} on {socket.gethostname()}" in message
    assert "since 20" in message
    assert str(path.parent) in message
    assert "Wait for" in hint_of(locked.value)
    assert "\n" not in message
    assert locked.value.exit_code == 11


def test_it_is_taken_as_soon_as_the_other_process_releases_it(
    path: Path, other_process: "subprocess.Popen[str]"
) -> None:
    assert other_process.stdin is not None
    other_process.stdin.close()
    with RegistryLock(path).acquire("mine", timeout=10):
        pass


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_it_dies_with_its_process_and_the_note_left_behind_blocks_no_one(
    path: Path, other_process: "subprocess.Popen[str]"
) -> None:
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    note = path.with_name("lock.holder")
    assert json.loads(note.read_text())["pid"] == other_process.pid
    lock = RegistryLock(path)
    assert lock.holder() is None
    with lock.acquire("mine", timeout=0):
        assert json.loads(note.read_text())["pid"] == os.getpid()
    assert not note.exists()


@pytest.mark.parametrize(
    "note", ["", "not json", "[]", "{}", '{"pid": "x", "host": 1}', '"text"', "\xff"]
)
def test_an_unreadable_note_counts_as_missing(path: Path, note: str) -> None:
    path.with_name("lock.holder").write_text(note, encoding="latin-1")
    lock = RegistryLock(path)
    assert lock.holder() is None
    with RegistryLock(path).acquire("first"):
        path.with_name("lock.holder").write_text(note, encoding="latin-1")
        with pytest.raises(LockedError, match="locked by another process"):
            lock.acquire("second", timeout=0).__enter__()


def test_a_holder_on_another_machine_is_believed(path: Path) -> None:
    note = {"pid": 2**22 + 1, "host": "elsewhere", "command": "c", "since": "s"}
    path.with_name("lock.holder").write_text(json.dumps(note))
    holder = RegistryLock(path).holder()
    assert holder is not None
    assert str(holder) == f"'c' (process {2**22 + 1} on elsewhere) since s"


def test_a_folder_that_cannot_be_written_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    lock = RegistryLock(path)
    monkeypatch.setattr(type(lock._lock), "acquire", refuse)
    with pytest.raises(ConduError, match="Permission denied") as failed:
        lock.acquire("learn").__enter__()
    assert str(path.parent) in failed.value.message
    assert failed.value.exit_code == 1


def test_a_link_in_the_place_of_the_lock_is_refused_and_not_followed(
    path: Path, tmp_path: Path
) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="symbolic link"):
        RegistryLock(path).acquire("learn").__enter__()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["lock.holder", "lock.holder.{pid}"])
def test_the_note_is_never_written_through_a_link(path: Path, tmp_path: Path, name: str) -> None:
    name = name.format(pid=os.getpid())
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with RegistryLock(path).acquire("learn"):
        holder = RegistryLock(path).holder()
        assert holder is not None
        assert holder.command == "learn"
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_who_must_wait_hears_once_for_whom(
    path: Path, other_process: "subprocess.Popen[str]"
) -> None:
    told: list[str] = []
    with (
        pytest.raises(LockedError),
        RegistryLock(path).acquire("mine", timeout=0, on_wait=told.append),
    ):
        pytest.fail("both hold the lock")
    (holder,) = told
    assert f"'condu learn --task pets' (process {other_process.pid} on" in holder


def test_who_must_wait_for_a_holder_without_a_note_hears_that_too(
    path: Path, other_process: "subprocess.Popen[str]"
) -> None:
    assert other_process.poll() is None
    path.with_name("lock.holder").unlink()
    told: list[str] = []
    with pytest.raises(LockedError):
        RegistryLock(path).acquire("mine", timeout=0, on_wait=told.append).__enter__()
    assert told == ["another process"]


def test_who_need_not_wait_hears_nothing(path: Path) -> None:
    told: list[str] = []
    lock = RegistryLock(path)
    with lock.acquire("outer", on_wait=told.append), lock.acquire("inner", on_wait=told.append):
        pass
    assert told == []
