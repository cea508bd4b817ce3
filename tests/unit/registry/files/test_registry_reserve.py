"""Space that a writer gives up when the disk is full."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from condu_cli.registry.files import reserve
from condu_cli.registry.files.reserve import PLENTY, RESERVE, give_up, keep
from condu_cli.registry.repository import Registry


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the disk have so many bytes left."""

    def say(count: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=count))

    return say


def test_it_is_made_once_where_there_is_plenty(tmp_path: Path, free: Callable[[int], None]) -> None:
    path = tmp_path / "reserve"
    free(PLENTY)
    keep(path)
    assert not path.exists()
    free(PLENTY + 1)
    keep(path)
    content = path.read_bytes()
    assert len(content) == RESERVE
    keep(path)
    assert path.read_bytes() == content
    path.write_bytes(b"cut")
    keep(path)
    assert path.stat().st_size == RESERVE
    assert [file.name for file in tmp_path.iterdir()] == ["reserve"]


def test_it_is_given_up_only_when_there_is_less_than_another(
    tmp_path: Path, free: Callable[[int], None]
) -> None:
    path = tmp_path / "reserve"
    path.write_bytes(bytes(RESERVE))
    free(RESERVE)
    give_up(path)
    assert path.exists()
    free(RESERVE - 1)
    give_up(path)
    assert not path.exists()
    give_up(path)


def test_a_disk_that_cannot_be_written_to_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reserve.os, "urandom", refuse)
    keep(tmp_path / "reserve")
    assert list(tmp_path.iterdir()) == []
    keep(tmp_path / "missing" / "reserve")
    give_up(tmp_path / "missing" / "reserve")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "reserve").symlink_to(tmp_path / "mine")
    keep(tmp_path / "reserve")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_writer_finds_it_and_a_reader_never_does(
    registry: Registry, free: Callable[[int], None]
) -> None:
    assert registry.paths.reserve.stat().st_size == RESERVE
    free(0)
    registry.sessions()
    assert registry.paths.reserve.exists()
    with registry.lock("learn"):
        assert not registry.paths.reserve.exists()
