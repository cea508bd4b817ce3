import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from condu_cli.registry.files import drafts
from condu_cli.registry.files.drafts import STALE_SECONDS, draft_name, is_abandoned, is_draft


@pytest.fixture
def dead() -> int:
    """Return the id of a process on this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def draft(folder: Path, owner: str, age: float = 0.0, prefix: str = "") -> Path:
    path = folder / f"{prefix}{owner}-{'0' * 16}.safetensors"
    path.write_bytes(b"")
    changed = path.stat().st_mtime - age
    os.utime(path, (changed, changed))
    return path


def test_every_draft_has_another_name_that_says_who_writes_it() -> None:
    names = {draft_name() for _ in range(100)}
    assert len(names) == 100
    assert all(f"-{os.getpid()}-" in name for name in names)


def test_a_draft_of_a_process_that_runs_is_not_abandoned_however_old(tmp_path: Path) -> None:
    for suffix in ("", ".safetensors", ".sqlite-journal"):
        path = tmp_path / f"{draft_name()}{suffix}"
        path.write_bytes(b"")
        os.utime(path, (0, 0))
        assert not is_abandoned(path)


@pytest.mark.skipif(os.name == "nt", reason="elsewhere processes are not asked for")
def test_a_draft_of_a_process_that_is_gone_is_abandoned_at_once(tmp_path: Path, dead: int) -> None:
    assert is_abandoned(draft(tmp_path, f"{drafts._host()}-{dead}"))
    assert is_abandoned(draft(tmp_path, f"{drafts._host()}-{dead}", prefix=".registry-"))


@pytest.mark.parametrize("owner", ["x", "notes", f"{drafts._host()}-1x"])
def test_what_is_not_named_as_a_draft_is_nobodys_however_old(tmp_path: Path, owner: str) -> None:
    path = draft(tmp_path, owner, age=2 * STALE_SECONDS)
    assert not is_abandoned(path)
    assert not is_draft(path)


def test_a_draft_of_another_machine_is_left_for_a_day(tmp_path: Path) -> None:
    assert not is_abandoned(draft(tmp_path, "elsewhere-1", age=STALE_SECONDS - 60))
    assert is_abandoned(draft(tmp_path, "elsewhere-1", age=STALE_SECONDS + 60))


def test_a_draft_that_is_gone_has_no_owner(tmp_path: Path) -> None:
    assert not is_abandoned(tmp_path / "elsewhere-1-0000000000000000.safetensors")


@pytest.mark.skipif(os.name == "nt", reason="elsewhere processes are not asked for")
def test_a_process_that_may_not_be_asked_is_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not is_abandoned(draft(tmp_path, f"{drafts._host()}-1", age=2 * STALE_SECONDS))


@pytest.mark.skipif(os.name == "nt", reason="elsewhere processes are not asked for")
def test_a_number_without_a_process_is_not_running(tmp_path: Path) -> None:
    assert is_abandoned(draft(tmp_path, f"{drafts._host()}-9999999999"))


@pytest.mark.parametrize("host", ["a-b.example.org", "", "ü" * 90, "x" * 90])
def test_any_name_of_a_machine_makes_a_name_that_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    path = tmp_path / f"{draft_name()}.safetensors"
    path.write_bytes(b"")
    os.utime(path, (0, 0))
    assert path.name.isascii()
    assert not is_abandoned(path)
