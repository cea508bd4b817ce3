import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from condu_cli.registry.files.listing import bytes_below, files_below


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (("a", 3), ("sub/b", 5), ("sub/deep/c", 7)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return tmp_path


def test_every_file_is_listed_with_its_size(folder: Path) -> None:
    found = {path.relative_to(folder).as_posix(): size for path, size in files_below(folder)}
    assert found == {"a": 3, "sub/b": 5, "sub/deep/c": 7}
    assert bytes_below(folder) == 15


def test_links_are_not_followed(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "sub")
    (folder / "file").symlink_to(folder / "a")
    assert {path.name for path, _ in files_below(folder)} == {"a", "b", "c", "file"}


def test_a_file_that_goes_since_the_listing_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.walk

    def walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for found in real(top):
            (folder / "sub/b").unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(os, "walk", walk)
    (folder / "a").unlink()
    assert [path.name for path, _ in files_below(folder)] == ["c"]


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert list(files_below(tmp_path / "gone")) == []
