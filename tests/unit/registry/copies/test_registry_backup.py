import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_sessions import session_of

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, IntegrityError, LockedError, UsageError
from condu_cli.registry.copies import backup, snapshot
from condu_cli.registry.copies.backup import BackupSummary, back_up_registry
from condu_cli.registry.files.lock import RegistryLock
from condu_cli.registry.manifest import RegistryConfig, Session
from condu_cli.registry.repository import Registry

Learn = Callable[[str], Session]


def silent(_done: int, _total: int) -> None:
    pass


def back_up(registry: Registry, target: Path) -> BackupSummary:
    return back_up_registry(registry, target, silent)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_same(copy: Path, registry: Registry) -> None:
    """Assert that the copy opens and has the same history and every needed blob, byte for byte."""
    opened = Registry.open(copy)
    assert opened.history() == registry.history()
    assert opened.operations() == registry.operations()
    assert opened.config == registry.config
    assert opened.created_at == registry.created_at
    assert_complete(opened)


def assert_complete(opened: Registry) -> None:
    for sha256 in opened.history().needed_blobs():
        opened.blobs.verify(sha256)
    with closing(sqlite3.connect(opened.paths.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_new_backup_is_a_registry_with_the_same_content(
    registry: Registry, learn: Learn, tmp_path: Path
) -> None:
    learn("pets")
    head = learn("cars")
    registry.tag("good", head, "tag")
    heard: list[tuple[int, int]] = []
    target = tmp_path / "disk" / "backup"
    summary = back_up_registry(registry, target, lambda *figures: heard.append(figures))
    assert_same(target, registry)
    assert (summary.created, summary.head, summary.sessions) == (True, head.id, 2)
    assert summary.copied_files == summary.blobs == len(registry.history().needed_blobs())
    assert heard[0] == (0, summary.copied_bytes)
    assert heard[-1] == (summary.copied_bytes, summary.copied_bytes)
    assert [path.name for path in target.parent.iterdir()] == ["backup"]
    assert list((target / "tmp").iterdir()) == []


def test_it_can_be_worked_in_like_any_other_registry(
    registry: Registry, learn: Learn, tmp_path: Path
) -> None:
    head = learn("pets")
    back_up(registry, tmp_path / "b")
    copy = Registry.open(tmp_path / "b")
    with copy.lock("learn"):
        copy.commit(session_of(copy, "cars", head, seed=7), command="learn")
    with closing(sqlite3.connect(copy.paths.database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_backup_goes_onto_an_empty_volume(
    registry: Registry, learn: Learn, tmp_path: Path
) -> None:
    """Its folder cannot be replaced, and is not quite empty."""
    learn("birds")
    volume = tmp_path / "volume"
    (volume / "lost+found").mkdir(parents=True)
    (volume / ".DS_Store").write_text("")
    assert back_up(registry, volume).created
    assert_same(volume, registry)
    assert (volume / "lost+found").is_dir()
    learn("cars")
    assert not back_up(registry, volume).created
    assert_same(volume, registry)


def test_no_backup_is_made_inside_another_registry(
    registry: Registry, config: RegistryConfig, tmp_path: Path
) -> None:
    other = Registry.create(tmp_path / "other", config)
    with pytest.raises(UsageError, match="is inside the registry at"):
        back_up(registry, other.path / "inside")
    assert not (other.path / "inside").exists()


def test_an_empty_registry_and_an_empty_folder(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert back_up(registry, tmp_path / "b").blobs == 0
    assert_same(tmp_path / "b", registry)


@pytest.mark.skipif(os.name == "nt", reason="inodes are POSIX")
def test_blobs_are_copies_and_no_links(registry: Registry, learn: Learn, tmp_path: Path) -> None:
    learn("pets")
    back_up(registry, tmp_path / "b")
    copy = Registry.open(tmp_path / "b")
    for ref in copy.blobs.all():
        assert copy.blobs.path(ref.sha256).stat().st_nlink == 1


def test_an_update_copies_only_what_is_new(
    registry: Registry, learn: Learn, tmp_path: Path
) -> None:
    learn("pets")
    target = tmp_path / "b"
    back_up(registry, target)
    copy = Registry.open(target)
    before = {
        ref.sha256: copy.blobs.path(ref.sha256).stat().st_mtime_ns for ref in copy.blobs.all()
    }
    learn("cars")
    summary = back_up(registry, target)
    assert not summary.created
    assert summary.copied_files == summary.blobs - len(before) > 0
    assert_same(target, registry)
    for sha256, changed in before.items():
        assert copy.blobs.path(sha256).stat().st_mtime_ns == changed
    assert back_up(registry, target).copied_files == 0


def test_a_blob_that_was_cut_short_is_copied_again(
    registry: Registry, learn: Learn, tmp_path: Path
) -> None:
    head = learn("pets")
    back_up(registry, tmp_path / "b")
    cut = Registry.open(tmp_path / "b").blobs.path(min(head.blobs()))
    cut.write_bytes(b"half")
    assert back_up(registry, tmp_path / "b").copied_files == 1
    assert_same(tmp_path / "b", registry)


def test_blobs_that_are_not_needed_any_more_are_left_and_counted(
    registry: Registry, learn: Learn, tmp_path: Path
) -> None:
    first = learn("pets")
    learn("cars")
    back_up(registry, tmp_path / "b")
    gone = set(first.blobs()) - set(registry.head().blobs())
    with registry.lock("gc"):
        registry.record_collected([first.id], "gc")
        for sha256 in gone:
            registry.blobs.remove(sha256)
    summary = back_up(registry, tmp_path / "b")
    assert summary.unneeded_blobs == len(gone)
    assert summary.unneeded_bytes > 0
    assert_same(tmp_path / "b", registry)


def learn_run(registry: Registry, task: str, run: str) -> Session:
    """Commit an expert whose training is identified by its run."""
    session = session_of(registry, task, None, seed=1, run=run)
    with registry.lock("learn"):
        return registry.commit(session, command="learn")


def test_waiting_experts_come_and_go(registry: Registry, tmp_path: Path) -> None:
    record = {"training": {"run": "1"}}
    expert = registry.waiting.save("pets", {"w": np.ones(3, np.float32)}, record)
    assert back_up(registry, tmp_path / "b").experts == 1
    (copy,) = Registry.open(tmp_path / "b").waiting.all()
    assert (copy.task, copy.metadata) == ("pets", record)
    learn_run(registry, "pets", "1")
    registry.waiting.remove(expert.path)
    assert back_up(registry, tmp_path / "b").experts == 0
    assert Registry.open(tmp_path / "b").waiting.all() == []


@pytest.mark.parametrize("record", [{"training": {"run": "2"}}, {"training": {}}, {}])
def test_a_waiting_expert_that_only_the_backup_has_stays(
    registry: Registry, tmp_path: Path, record: dict[str, object]
) -> None:
    """The backup was used, or the registry lost the expert: this is the only copy."""
    learn_run(registry, "pets", "1")
    back_up(registry, tmp_path / "b")
    copy = Registry.open(tmp_path / "b")
    only = copy.waiting.save("cars", {"w": np.ones(3, np.float32)}, record)
    corrupt = copy.waiting.save("dogs", {"w": np.ones(3, np.float32)}, {"training": {"run": "1"}})
    corrupt.path.write_bytes(b"half")
    summary = back_up(registry, tmp_path / "b")
    assert summary.experts == 0
    assert set(copy.waiting.paths()) == {only.path, corrupt.path}
    only.verify()


def test_no_lock_is_taken_or_waited_for(registry: Registry, learn: Learn, tmp_path: Path) -> None:
    learn("pets")
    with RegistryLock(registry.paths.lock).acquire("learn"):
        back_up(registry, tmp_path / "b")
    assert_same(tmp_path / "b", registry)


def test_while_another_commits(registry: Registry, learn: Learn, tmp_path: Path) -> None:
    learn("first")
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        mine = Registry.open(registry.path)
        try:
            for number in range(200):
                if stop.is_set():
                    return
                head = mine.head()
                session = session_of(mine, f"task{number % 3}", head, seed=100 + number)
                with mine.lock("learn"):
                    mine.commit(session, command="learn")
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = []
        for _ in range(6):
            seen.append(back_up(registry, tmp_path / "b").sessions)
            assert_complete(Registry.open(tmp_path / "b"))
    finally:
        stop.set()
        writer.join()
    assert failures == []
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]
    back_up(registry, tmp_path / "b")
    assert_same(tmp_path / "b", registry)


def collect_during(registry: Registry, monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Remove a blob each time that the database has just been copied."""
    original, count = backup.copy_database, [0]

    def copy(*args: object) -> Registry:
        result = original(*args)  # type: ignore[arg-type]
        if count[0] < times:
            count[0] += 1
            oldest = registry.history().live[-1]
            only = set(oldest.blobs()) - {
                sha for session in registry.history().live[:-1] for sha in session.blobs()
            }
            other = Registry.open(registry.path)
            with other.lock("gc"):
                other.record_collected([oldest.id], "gc")
                for sha256 in only:
                    other.blobs.remove(sha256)
        return result

    monkeypatch.setattr(backup, "copy_database", copy)
    return count


def test_a_collector_at_work_makes_it_start_over(
    registry: Registry, learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        learn(f"task{number}")
    count = collect_during(registry, monkeypatch, times=2)
    back_up(registry, tmp_path / "b")
    assert count == [2]
    assert_same(tmp_path / "b", registry)


def test_it_takes_the_lock_in_the_end(
    registry: Registry, learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        learn(f"task{number}")
    held: list[bool] = []
    original = backup._blobs
    monkeypatch.setattr(
        backup, "_blobs", lambda *a: held.append(registry._lock.held) or original(*a)
    )
    collect_during(registry, monkeypatch, times=snapshot.ATTEMPTS)
    back_up(registry, tmp_path / "b")
    assert held == [False] * snapshot.ATTEMPTS + [True]
    assert_same(tmp_path / "b", registry)


def test_a_missing_blob_is_named(registry: Registry, learn: Learn, tmp_path: Path) -> None:
    missing = max(learn("pets").blobs())
    registry.blobs.path(missing).unlink()
    with pytest.raises(IntegrityError, match=missing):
        back_up(registry, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_corrupt_blob_is_named_and_the_earlier_backup_stays(
    registry: Registry, learn: Learn, tmp_path: Path
) -> None:
    first = learn("pets")
    target = tmp_path / "b"
    back_up(registry, target)
    corrupt = max(learn("cars").blobs() - first.blobs())
    flip_a_byte(registry.blobs.path(corrupt))
    with pytest.raises(IntegrityError, match=corrupt):
        back_up(registry, target)
    copy = Registry.open(target)
    assert copy.head() == first
    assert_complete(copy)
    assert list((target / "tmp").iterdir()) == []
    with pytest.raises(IntegrityError, match=corrupt):
        back_up(registry, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"registry", "b"}


def test_a_corrupt_expert_is_named(registry: Registry, tmp_path: Path) -> None:
    expert = registry.waiting.save("pets", {"w": np.ones(3, np.float32)}, {})
    flip_a_byte(expert.path)
    with pytest.raises(IntegrityError, match="pets"):
        back_up(registry, tmp_path / "b")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_not_followed(registry: Registry, learn: Learn, tmp_path: Path) -> None:
    sha256 = max(learn("pets").blobs())
    blob = registry.blobs.path(sha256)
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="symbolic link"):
        back_up(registry, tmp_path / "b")
    blob.unlink()
    (tmp_path / "elsewhere").rename(blob)
    back_up(registry, tmp_path / "b")
    folder = tmp_path / "b" / "blobs" / sha256[:2]
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    (tmp_path / "moved" / sha256).unlink()
    with pytest.raises(IntegrityError, match="symbolic link"):
        back_up(registry, tmp_path / "b")


def test_places_that_are_not_backups(
    registry: Registry, learn: Learn, tmp_path: Path, config: RegistryConfig
) -> None:
    learn("pets")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("mine")
    Registry.create(tmp_path / "twin", config)
    Registry.create(tmp_path / "other", replace(config, method="lora"))
    places = ("file", "full", "twin", "other", "registry", "registry/b", ".")
    before = files_below(tmp_path / "full") | files_below(tmp_path / "twin")
    for name in places:
        with pytest.raises(UsageError):
            back_up(registry, tmp_path / name)
    assert (files_below(tmp_path / "full") | files_below(tmp_path / "twin")) == before
    assert not (registry.path / "b").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_does_not_hide_that_it_is_inside(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(registry.path)
    with pytest.raises(UsageError, match="is inside"):
        back_up(registry, tmp_path / "link" / "b")


def test_a_backup_that_was_worked_in_is_not_overwritten(
    registry: Registry, learn: Learn, tmp_path: Path
) -> None:
    head = learn("pets")
    back_up(registry, tmp_path / "b")
    copy = Registry.open(tmp_path / "b")
    with copy.lock("learn"):
        mine = copy.commit(session_of(copy, "mine", head, seed=9), command="learn")
    learn("cars")
    with pytest.raises(UsageError, match="1 session"):
        back_up(registry, tmp_path / "b")
    assert copy.head() == mine


def test_a_backup_in_use_is_left_alone(
    registry: Registry, learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn("pets")
    target = tmp_path / "b"
    back_up(registry, target)
    monkeypatch.setattr(backup, "connect", lambda path: snapshot.connect(path, 0.1))
    learn("cars")
    with closing(sqlite3.connect(target / "condu.sqlite")) as reader:
        reader.execute("SELECT * FROM head").fetchall()
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM head").fetchall()
        with pytest.raises(LockedError):
            back_up(registry, target)
    assert len(Registry.open(target).sessions()) == 1
    back_up(registry, target)
    assert_same(target, registry)


def test_the_log_of_the_old_database_is_not_played_back_onto_the_new(
    registry: Registry, learn: Learn, tmp_path: Path
) -> None:
    """A process was killed in the backup: its transaction is in the log, not in the file."""
    learn("pets")
    target = tmp_path / "b"
    back_up(registry, target)
    script = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.execute('PRAGMA wal_autocheckpoint = 0')\n"
        "c.execute(\"UPDATE registry SET written_by = 'killed'\")\n"
        "c.commit()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(target / "condu.sqlite")], check=True)
    assert (target / "condu.sqlite-wal").stat().st_size > 0
    for number in range(5):
        learn(f"cars{number}")
    back_up(registry, target)
    assert not (target / "condu.sqlite-wal").exists()
    assert_same(target, registry)


def full_disk() -> OSError:
    return OSError(28, "No space left on device")


# Every step that can fail ------------------------------------------------------------------


class Failing:
    """Lets the n-th call of any function that changes a disk fail."""

    def __init__(self, fail_at: int, error: Callable[[], BaseException] | None) -> None:
        self.calls = 0
        self._fail_at = fail_at
        self._error = error

    def wrap(self, function: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            if args and Path(str(args[0])).name.startswith(("lock", "reserve")):  # not the backup
                return function(*args, **kwargs)
            self.calls += 1
            if self.calls == self._fail_at:
                if self._error is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                else:
                    raise self._error()
            return function(*args, **kwargs)

        return wrapped

    def install(self, patch: Callable[[object, str, object], None]) -> None:
        for name in ("replace", "rename", "mkdir", "rmdir", "unlink", "write_text"):
            patch(Path, name, self.wrap(getattr(Path, name)))
        patch(os, "fsync", self.wrap(os.fsync))
        for name in ("copy_database", "set_wal", "_settle"):
            patch(backup, name, self.wrap(getattr(backup, name)))


@pytest.mark.parametrize("error", [full_disk, KeyboardInterrupt])
@pytest.mark.parametrize("new", [False, True])
def test_whatever_fails_leaves_a_backup_that_opens(
    registry: Registry,
    learn: Learn,
    tmp_path: Path,
    *,
    new: bool,
    error: Callable[[], BaseException],
) -> None:
    first = learn("pets")
    target = tmp_path / "b"
    if not new:
        back_up(registry, target)
    second = learn("cars")
    registry.waiting.save("boats", {"w": np.ones(3, np.float32)}, {})
    failed = 0
    for fail_at in range(1, 200):
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(fail_at, error)
            failing.install(patch.setattr)
            try:
                back_up(registry, target)
            except (ConduError, KeyboardInterrupt):
                failed += 1
            if failing.calls < fail_at:
                break
        if target.exists():
            copy = Registry.open(target)
            assert copy.head() in (first, second)
            assert_complete(copy)
            if new:
                break
        else:
            assert new
    assert failed > 10
    back_up(registry, target)
    assert_same(target, registry)
    assert [path.name for path in (target / "tmp").iterdir()] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_step_leaves_a_backup_that_opens(
    registry: Registry, learn: Learn, tmp_path: Path
) -> None:
    first = learn("pets")
    target = tmp_path / "b"
    back_up(registry, target)
    second = learn("cars")
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from condu_cli.registry.repository import Registry\n"
        "from test_registry_backup import Failing, back_up\n"
        "source, target, n = Path(sys.argv[1]), Path(sys.argv[2]), 0\n"
        "while True:\n"
        "    n += 1\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        Failing(n, None).install(setattr)\n"
        "        back_up(Registry.open(source), target)\n"
        "        os._exit(0)\n"
        "    _, status = os.waitpid(child, 0)\n"
        "    head = Registry.open(target).head().id\n"
        "    journal = [p.name for p in target.iterdir() if p.name.startswith('condu.sqlite-')]\n"
        "    print(n, status, head, *journal, flush=True)\n"
        "    if status == 0:\n"
        "        break\n"
    )
    here = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", script, str(registry.path), str(target)],
        env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    lines = [line.split() for line in result.stdout.splitlines()]
    assert len(lines) > 10, result.stdout
    assert {line[1] for line in lines[:-1]} == {str(int(signal.SIGKILL))}
    heads = [line[2] for line in lines]
    assert set(heads) <= {first.id, second.id}
    assert heads == sorted(heads, key=[first.id, second.id].index)
    assert_same(target, registry)


def test_a_full_disk_is_reported_in_words(
    registry: Registry, learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn("pets")
    back_up(registry, tmp_path / "earlier")
    learn("cars")
    monkeypatch.setattr(
        os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    for name, consequence in (
        ("b", "no backup was made"),
        ("earlier", "the earlier backup was not changed"),
    ):
        with pytest.raises(ConduError, match="No space left") as full:
            back_up(registry, tmp_path / name)
        assert type(full.value) is ConduError
        assert "Free some space" in hint_of(full.value)
        assert full.value.facts["consequence"] == consequence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier", "registry"]


def test_a_disk_too_small_for_the_database(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sqlite3.connect

    def small(*args: object, **kwargs: object) -> sqlite3.Connection:
        connection = original(*args, **kwargs)  # type: ignore[call-overload]
        if str(args[0]).endswith(".sqlite") and "tmp" in str(args[0]):
            connection.execute("PRAGMA max_page_count = 2")
        return connection

    monkeypatch.setattr(snapshot.sqlite3, "connect", small)
    with pytest.raises(ConduError, match="cannot copy") as full:
        back_up(registry, tmp_path / "b")
    assert "Free some space" in hint_of(full.value)
    assert [path.name for path in tmp_path.iterdir()] == ["registry"]
