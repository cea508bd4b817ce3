import os
import re
import stat
from pathlib import Path

import pytest

from condu_cli.registry.clock import utc_now
from condu_cli.registry.files.durability import flush_file, flush_folder


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every descriptor that is flushed: whether it is a folder's."""
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


def test_times_are_texts_that_sort() -> None:
    times = [utc_now() for _ in range(50)]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time) for time in times)
