"""Flushing, modes and folders, and timestamps in names."""

import os
import re
import stat
from pathlib import Path

import pytest

from condu_cli.disk import (
    flush_file,
    flush_folder,
    mode_of_new_file,
    named_in_utf8,
    nearest_existing,
)
from condu_cli.registry.clock import utc_now


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record, for every flushed descriptor, whether it is a folder's."""
    kinds: list[bool] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: kinds.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
    )
    return kinds


def test_a_file_is_flushed_and_keeps_its_bytes(tmp_path: Path, flushed: list[bool]) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    flush_file(file)
    assert flushed == [False]
    assert file.read_bytes() == b"content"


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot open a folder")
def test_a_folder_is_flushed(tmp_path: Path, flushed: list[bool]) -> None:
    flush_folder(tmp_path)
    assert flushed == [True]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_gives(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        assert mode_of_new_file(tmp_path / "probe") == mode
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_of_a_path_is_itself_or_a_folder_above(tmp_path: Path) -> None:
    assert nearest_existing(tmp_path) == tmp_path
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path


def test_times_are_texts_that_sort() -> None:
    times = [utc_now() for _ in range(50)]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time) for time in times)


@pytest.mark.skipif(os.name == "nt", reason="names are text")
@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"a\tb.txt", b"plain.txt"])
def test_a_file_of_any_name_has_one_that_is_text(tmp_path: Path, name: bytes) -> None:
    file = tmp_path / os.fsdecode(name)
    file.write_bytes(b"content")
    with named_in_utf8(file) as there:
        assert str(there).isprintable()
        assert there.suffix == ".txt"
        assert there.read_bytes() == b"content"
        assert (there == file) == (name == b"plain.txt")
    assert file.read_bytes() == b"content"
