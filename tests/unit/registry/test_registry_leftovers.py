import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from condu_cli.errors import ConduError
from condu_cli.registry import leftovers as leftovers_module
from condu_cli.registry.files.drafts import draft_name
from condu_cli.registry.leftovers import (
    BLOB,
    DRAFT,
    Leftover,
    leftovers,
    remove_leftover,
    unknown_files,
)
from condu_cli.registry.manifest import Session
from condu_cli.registry.repository import Registry

Learn = Callable[[str], Session]


def needed(registry: Registry) -> set[str]:
    return set(registry.history().needed_blobs())


@pytest.fixture
def abandoned(registry: Registry) -> Path:
    path = registry.paths.tmp / "elsewhere-1-0000000000000000.safetensors"
    path.write_bytes(b"12345")
    os.utime(path, (0, 0))
    return path


def test_a_registry_that_nothing_happened_to_has_none(registry: Registry, learn: Learn) -> None:
    learn("a")
    learn("b")
    assert list(leftovers(registry, needed(registry))) == []


def test_a_blob_that_is_not_needed_is_one(registry: Registry, learn: Learn) -> None:
    learn("a")
    ref = registry.blobs.put({"x": np.zeros(9, np.float32)})
    path = registry.blobs.path(ref.sha256)
    (found,) = leftovers(registry, needed(registry))
    assert found == Leftover(path, BLOB, ref.size)
    remove_leftover(registry, found)
    assert not path.exists()
    assert list(leftovers(registry, needed(registry))) == []


def test_an_abandoned_draft_is_one(registry: Registry, abandoned: Path) -> None:
    (found,) = leftovers(registry, set())
    assert found == Leftover(abandoned, DRAFT, 5)
    remove_leftover(registry, found)
    assert not abandoned.exists()
    remove_leftover(registry, found)  # another process has already removed it


def test_a_draft_that_is_being_written_is_not_a_leftover(registry: Registry) -> None:
    path = registry.paths.tmp / f"{draft_name()}.safetensors"
    path.write_bytes(b"half of it")
    os.utime(path, (0, 0))
    assert list(leftovers(registry, set())) == []


@pytest.mark.usefixtures("abandoned")
def test_what_condu_does_not_write_is_none(registry: Registry, tmp_path: Path) -> None:
    old = (registry.paths.tmp / "folder", registry.paths.blobs / "aa")
    for folder in old:
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
    (registry.path / "thesis.txt").write_text("mine")
    (tmp_path / "thesis.txt").write_text("mine")
    target = registry.paths.tmp / "elsewhere-1-0000000000000000.safetensors"
    (registry.paths.tmp / "elsewhere-2-0000000000000000.safetensors").symlink_to(target)
    assert [found.path for found in leftovers(registry, set())] == [target]


@pytest.mark.usefixtures("abandoned")
def test_what_condu_does_not_write_is_unknown(registry: Registry, learn: Learn) -> None:
    learn("a")
    registry.blobs.put({"x": np.zeros(9, np.float32)})
    (registry.paths.tmp / f"{draft_name()}.safetensors").write_bytes(b"half of it")
    assert list(unknown_files(registry)) == []
    paths = registry.paths
    mine = [
        *(paths.blobs / "aa" / f"bb{'0' * 62}", paths.blobs / "notes.txt"),
        *(paths.trained / "x.safetensors", paths.runs / "y.pt", paths.tmp / "z"),
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        os.utime(path, (0, 0))  # age makes it no leftover
    assert list(unknown_files(registry)) == mine
    for leftover in leftovers(registry, needed(registry)):
        remove_leftover(registry, leftover)
    assert all(path.exists() for path in mine)


def test_what_is_behind_a_link_is_not_one(registry: Registry, tmp_path: Path) -> None:
    ref = registry.blobs.put({"x": np.zeros(9, np.float32)})
    folder = registry.blobs.path(ref.sha256).parent
    folder.rename(tmp_path / "others")
    folder.symlink_to(tmp_path / "others")
    assert list(leftovers(registry, set())) == []
    assert (tmp_path / "others" / ref.sha256).exists()


def test_the_folder_of_a_creation_that_was_killed_is_one(registry: Registry) -> None:
    folder = registry.path.parent / f".{registry.path.name}-elsewhere-1-{'0' * 16}"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "x").write_bytes(b"123")
    (folder / "README.txt").write_bytes(b"45")
    assert list(leftovers(registry, set())) == []  # another machine may be writing it
    os.utime(folder, (0, 0))
    (found,) = leftovers(registry, set())
    assert found == Leftover(folder, DRAFT, 5)
    remove_leftover(registry, found)
    assert not folder.exists()


def test_what_cannot_be_removed_is_named(
    registry: Registry, abandoned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (found,) = leftovers(registry, set())
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ConduError, match="Permission denied") as failed:
        remove_leftover(registry, found)
    assert str(abandoned) in failed.value.message
    folder = Leftover(registry.paths.backups, DRAFT, 0)
    monkeypatch.setattr(leftovers_module.shutil, "rmtree", refuse)
    with pytest.raises(ConduError, match="backups: Permission denied"):
        remove_leftover(registry, folder)
