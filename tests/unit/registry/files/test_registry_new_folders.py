"""Folders that are built completely before they are seen, beside their place or inside."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from volumes import small_disk

from condu_cli.registry.files import new_folders
from condu_cli.registry.files.drafts import STALE_SECONDS
from condu_cli.registry.files.new_folders import draft_folders, is_free, new_folder
from condu_cli.registry.manifest import RegistryConfig
from condu_cli.registry.repository import Registry

OF_SYSTEMS = (
    *("lost+found", ".DS_Store", "._.DS_Store", "Thumbs.db", "desktop.ini", ".Trash-1000"),
    *(".Trashes", ".fseventsd", ".Spotlight-V100", "System Volume Information", "$RECYCLE.BIN"),
)
CONTENT = ("README.txt", "blobs", "condu.sqlite", "tmp")


class Kill(BaseException):
    """Like SIGKILL, except that this process goes on: nothing is cleaned up."""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """An empty volume, as systems leave one."""
    place = tmp_path / "volume"
    for name in OF_SYSTEMS[::3]:
        (place / name).mkdir(parents=True)
    for name in OF_SYSTEMS[1::3]:
        (place / name).write_text("")
    return place


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - set(OF_SYSTEMS)


def fill(draft: Path) -> None:
    for name in CONTENT:
        path = draft / name
        path.mkdir() if "." not in name else path.write_text(name)


@pytest.mark.parametrize("name", OF_SYSTEMS)
def test_what_systems_put_into_a_volume_is_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert is_free(tmp_path)


@pytest.mark.parametrize("name", ["thesis.txt", ".git", "lost+found.txt", "blobs", "condu.sqlite"])
def test_anything_else_is_in_the_way(volume: Path, name: str) -> None:
    (volume / name).write_text("mine")
    assert not is_free(volume)


def test_a_file_and_a_dangling_link_are_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert not is_free(tmp_path / "file")
    assert not is_free(tmp_path / "link")
    assert is_free(tmp_path / "new")


@pytest.mark.parametrize("where", ["deep/er/new", "volume"])
def test_the_content_comes_to_its_place_and_nothing_else_does(
    volume: Path, tmp_path: Path, where: str
) -> None:
    place = tmp_path / where
    with new_folder(place) as draft:
        fill(draft)
        assert names(volume) <= {draft.name}
    assert names(place) - {"lock"} == set(CONTENT)
    assert (place / "condu.sqlite").read_text() == "condu.sqlite"
    assert not list(tmp_path.rglob(".*-*-*"))


@pytest.mark.parametrize("where", ["deep/er/new", "volume"])
def test_what_fails_leaves_nothing_behind(volume: Path, tmp_path: Path, where: str) -> None:
    before = sorted(tmp_path.rglob("*"))

    def interrupted() -> None:
        with new_folder(tmp_path / where) as draft:
            fill(draft)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(tmp_path.rglob("*")) == before


def test_of_two_that_fill_the_same_folder_one_wins(volume: Path) -> None:

    def overtaken() -> None:
        with new_folder(volume) as draft:
            fill(draft)
            with new_folder(volume) as other:
                fill(other)
                (other / "README.txt").write_text("the other's")

    with pytest.raises(FileExistsError):
        overtaken()
    assert names(volume) == {*CONTENT, "lock"}
    assert (volume / "README.txt").read_text() == "the other's"


@pytest.fixture
def abandoned(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the drafts so far look as if their writer, on another machine, had been gone for long."""

    def later() -> None:
        monkeypatch.setattr(new_folders, "is_abandoned", lambda draft: True)

    return later


def killed_at(step: int) -> Callable[[], None]:
    """Stop at the given rename, and let nothing be removed after it."""
    done: list[Path] = []
    rename = Path.rename

    def counted(self: Path, target: Path) -> Path:
        if len(done) == step:
            raise Kill
        done.append(self)
        return rename(self, target)

    def nothing(*_: object, **__: object) -> None:
        return

    patch = pytest.MonkeyPatch()
    patch.setattr(Path, "rename", counted)
    patch.setattr(new_folders.shutil, "rmtree", nothing)
    patch.setattr(new_folders, "_remove", nothing)
    return patch.undo


@pytest.mark.parametrize("step", range(len(CONTENT)))
def test_killed_at_any_step_it_is_no_registry_and_can_be_tried_again(
    volume: Path, abandoned: Callable[[], None], step: int
) -> None:
    revive = killed_at(step)
    with pytest.raises(Kill), new_folder(volume) as draft:
        fill(draft)
    revive()
    assert not (volume / "condu.sqlite").exists()
    assert not is_free(volume)  # its writer may still be at work
    abandoned()
    assert is_free(volume)
    with new_folder(volume) as draft:
        fill(draft)
    assert names(volume) == {*CONTENT, "lock"}


def test_killed_after_the_last_step_it_is_a_registry_and_stays_one(
    volume: Path, abandoned: Callable[[], None]
) -> None:
    with new_folder(volume) as draft:
        fill(draft)
    left = volume / f".new-elsewhere-1-{'0' * 16}.inside"
    left.mkdir()
    abandoned()
    assert not is_free(volume)
    assert list(draft_folders(volume)) == [left]


def test_a_young_draft_of_another_machine_is_left_alone(volume: Path) -> None:
    left = volume / f".new-elsewhere-1-{'0' * 16}.inside"
    left.mkdir()
    assert not is_free(volume)
    old = left.stat().st_mtime - 2 * STALE_SECONDS
    os.utime(left, (old, old))
    assert is_free(volume)


def test_what_users_put_beside_an_abandoned_draft_is_theirs(
    volume: Path, abandoned: Callable[[], None]
) -> None:
    """Whatever it is called, and whether or not the draft was finished."""
    started = volume / f".new-elsewhere-1-{'0' * 16}.inside"
    fill_folder = started / "blobs"
    fill_folder.mkdir(parents=True)
    listed = volume / f".new-elsewhere-2-{'0' * 16}.inside"
    listed.mkdir()
    (listed / "README.txt").write_text("not moved yet")
    (listed / new_folders.CHILDREN).write_text("README.txt")
    for name in ("README.txt", "runs", "trained"):
        (volume / name).write_text("mine")
    abandoned()
    assert not is_free(volume)
    assert (volume / "runs").read_text() == "mine"


def test_a_draft_beside_a_registry_is_none_inside_its_parent(
    tmp_path: Path, abandoned: Callable[[], None]
) -> None:
    for name in ("condu", "new"):
        (tmp_path / f".{name}-elsewhere-1-{'0' * 16}").mkdir()
    (tmp_path / "runs").mkdir()
    abandoned()
    assert not is_free(tmp_path)
    assert list(draft_folders(tmp_path)) == []


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A real volume with a folder of the system's in it."""
    with small_disk(tmp_path / "mounted", 8 << 10) as place:
        (place / "lost+found").mkdir(mode=0o700)
        yield place


def test_a_registry_is_made_on_an_empty_volume(mounted: Path, config: RegistryConfig) -> None:
    assert os.path.ismount(mounted)
    Registry.create(mounted, config)
    assert Registry.open(mounted).config == config
    assert (mounted / "lost+found").is_dir()
