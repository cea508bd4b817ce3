import os
from collections.abc import Callable
from pathlib import Path

import pytest

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, IntegrityError, UsageError
from condu_cli.registry import creation
from condu_cli.registry.files.drafts import STALE_SECONDS, draft_name
from condu_cli.registry.files.new_folders import draft_folders
from condu_cli.registry.manifest import RegistryConfig
from condu_cli.registry.repository import Registry


def refuse(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device", "/some/file")


def test_a_new_registry_is_empty_and_knows_what_it_is(
    tmp_path: Path, config: RegistryConfig
) -> None:
    registry = Registry.create(tmp_path / "r", config, command="condu init --base tiny")
    assert registry.path == tmp_path / "r"
    assert registry.head() is None
    assert registry.sessions() == []
    assert registry.config == config
    (operation,) = registry.operations()
    assert (operation.kind, operation.command) == ("init", "condu init --base tiny")
    assert (operation.from_session, operation.to_session) == (None, None)
    assert operation.at == registry.created_at


def test_its_folder_says_what_it_is(registry: Registry) -> None:
    assert {path.name for path in registry.path.iterdir()} == {
        "README.txt",
        "backups",
        "blobs",
        "condu.sqlite",
        "reserve",
        "tmp",
    }
    readme = registry.paths.readme.read_text(encoding="utf-8")
    assert "condu registry" in readme
    assert "by hand" in readme


def test_missing_folders_above_it_are_made(tmp_path: Path, config: RegistryConfig) -> None:
    Registry.create(tmp_path / "a" / "b" / "r", config)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["r"]


@pytest.mark.skipif(os.name == "nt", reason="inodes are POSIX")
def test_an_empty_folder_is_filled_not_replaced(tmp_path: Path, config: RegistryConfig) -> None:
    inode = tmp_path.stat().st_ino
    Registry.create(tmp_path, config)
    assert tmp_path.stat().st_ino == inode
    assert Registry.open(tmp_path).config == config


def test_a_second_registry_in_the_same_place_is_refused(
    registry: Registry, config: RegistryConfig
) -> None:
    with pytest.raises(UsageError, match="already") as refused:
        Registry.create(registry.path, config)
    assert "condu learn" in hint_of(refused.value)


def test_a_file_cannot_hold_a_registry(tmp_path: Path, config: RegistryConfig) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        Registry.create(file, config)
    with pytest.raises(ConduError, match="cannot create"):
        Registry.create(file / "below", config)
    assert file.read_text() == "mine"


def test_a_folder_with_other_things_in_it_is_left_alone(
    tmp_path: Path, config: RegistryConfig
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="neither empty nor a registry"):
        Registry.create(tmp_path, config)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("below", ["inner", "blobs/ab", "tmp"])
def test_a_registry_holds_no_other(registry: Registry, config: RegistryConfig, below: str) -> None:
    before = sorted(registry.path.rglob("*"))
    with pytest.raises(UsageError, match="is inside the registry at") as refused:
        Registry.create(registry.path / below, config)
    assert "outside" in hint_of(refused.value)
    assert sorted(registry.path.rglob("*")) == before


def test_a_registry_that_lost_its_database_is_called_one(
    registry: Registry, learn: Callable[[str], object]
) -> None:
    learn("birds")
    registry.paths.database.unlink()
    with pytest.raises(IntegrityError, match=r"condu\.sqlite is missing") as refused:
        Registry.open(registry.path)
    assert "from a backup" in hint_of(refused.value)


@pytest.mark.parametrize("step", ["create_database", "flush_folder"])
@pytest.mark.parametrize("place", ["new", "deep/er/new", "empty"])
def test_a_failed_create_leaves_nothing_behind(
    tmp_path: Path, config: RegistryConfig, monkeypatch: pytest.MonkeyPatch, place: str, step: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(creation, step, refuse)
    with pytest.raises(ConduError, match="No space left on device") as failed:
        Registry.create(tmp_path / place, config)
    assert str(tmp_path / place) in failed.value.message
    assert "--registry" in hint_of(failed.value)
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_an_interrupted_create_leaves_nothing_behind(
    tmp_path: Path, config: RegistryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(creation, "create_database", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Registry.create(tmp_path / "r", config)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, config: RegistryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_mkdir(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse_mkdir)
    with pytest.raises(ConduError, match="Permission denied") as failed:
        Registry.create(tmp_path / "r", config)
    assert str(tmp_path) in failed.value.message
    assert failed.value.exit_code == 1


def test_a_registry_made_meanwhile_by_another_is_not_overwritten(
    tmp_path: Path, config: RegistryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = creation._build

    def slow_build(*arguments: object) -> None:
        build(*arguments)  # type: ignore[arg-type]
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "condu.sqlite").write_text("the other's")

    monkeypatch.setattr(creation, "_build", slow_build)
    with pytest.raises(ConduError, match="cannot create"):
        Registry.create(tmp_path / "r", config)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert (tmp_path / "r" / "condu.sqlite").read_text() == "the other's"


def draft_folder(root: Path, owner: str, age: float) -> Path:
    folder = root.parent / f".{root.name}-{owner}-{'0' * 16}"
    (folder / "blobs").mkdir(parents=True)
    changed = folder.stat().st_mtime - age
    os.utime(folder, (changed, changed))
    return folder


def test_leftovers_of_a_killed_creation_are_removed_by_the_next(
    tmp_path: Path, config: RegistryConfig
) -> None:
    root = tmp_path / "r"
    abandoned = draft_folder(root, "elsewhere-1", age=2 * STALE_SECONDS)
    assert list(draft_folders(root)) == [abandoned]
    Registry.create(root, config)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_what_may_belong_to_others_stays(tmp_path: Path, config: RegistryConfig) -> None:
    root = tmp_path / "r*"
    stay = {
        draft_folder(root, "elsewhere-1", age=60),
        draft_folder(root, draft_name().rpartition("-")[0], age=2 * STALE_SECONDS),
        draft_folder(tmp_path / "rr", "elsewhere-1", age=2 * STALE_SECONDS),
        draft_folder(root, "else-where-1", age=2 * STALE_SECONDS),
    }
    link = tmp_path / f".r*-elsewhere-2-{'0' * 16}"
    link.symlink_to(draft_folder(tmp_path / "x", "elsewhere-1", age=2 * STALE_SECONDS))
    Registry.create(root, config)
    assert all(folder.is_dir() for folder in (*stay, link))
