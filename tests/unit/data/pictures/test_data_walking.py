"""One walker over folders: links, thumbnails, and what may not be read."""

import os
from pathlib import Path

import pytest

from condu_cli.data.pictures import formats, walking
from condu_cli.data.pictures.walking import list_pictures, walk


@pytest.fixture
def files(tmp_path):
    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "root"

    return make


def below(root: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_pictures_come_sorted_at_any_depth(files):
    root = files("b.PNG", "a.jpg", "deep/er/c.webp", "notes.txt", "archive.zip", "d.JFIF")
    found = walk(root)
    assert below(root, found.pictures) == ["a.jpg", "b.PNG", "d.JFIF", "deep/er/c.webp"]
    assert below(root, found.others) == ["archive.zip", "notes.txt"]
    assert found.omissions() == []
    assert list_pictures(root) == found.pictures


def test_hidden_files_are_nothing_and_hidden_folders_are_named(files):
    root = files(".hidden.png", ".thumbs/a.png", "seen.png", ".DS_Store")
    found = walk(root)
    assert found.pictures == [root / "seen.png"]
    assert found.others == []
    assert found.omissions() == [f"{root / '.thumbs'}: not entered"]


@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", "Thumbnails", "lost+found", "$RECYCLE.BIN"])
def test_folders_of_devices_and_systems_are_left_out_at_any_depth(files, name):
    root = files("a.png", f"deep/{name}/a.png", f"{name}/more/a.png")
    found = walk(root)
    assert found.pictures == [root / "a.png"]
    assert below(root, found.left_out) == sorted([f"deep/{name}", name])


# Links


def test_a_linked_folder_is_entered_and_each_real_folder_once(files, tmp_path):
    root = files("a.png")
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.png").touch()
    (root / "first").symlink_to(other)
    (root / "second").symlink_to(other)
    assert below(root, walk(root).pictures) == ["a.png", "first/b.png"]


def test_a_cycle_ends(files):
    root = files("a.png", "deep/b.png")
    (root / "deep" / "up").symlink_to(root)
    (root / "self").symlink_to("self")
    found = walk(root)
    assert below(root, found.pictures) == ["a.png", "deep/b.png"]


def test_folders_that_were_seen_are_not_entered_again(files):
    root = files("cat/a.png", "dog/b.png")
    (root / "cat" / "all").symlink_to(root)
    (root / "cat" / "friend").symlink_to(root / "dog")
    seen = walking.folder_ids([root, root / "cat", root / "dog"])
    assert below(root, walk(root / "cat", seen).pictures) == ["cat/a.png"]
    assert below(root, walk(root / "dog", seen).pictures) == ["dog/b.png"]


def test_a_link_to_nothing_is_a_file_for_its_reader_to_name(files):
    root = files("a.png")
    (root / "gone.png").symlink_to(root / "nowhere")
    assert below(root, walk(root).pictures) == ["a.png", "gone.png"]


def test_every_folder_is_listed_once_whatever_links_to_it(files, monkeypatch):
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(walking.os, "scandir", lambda path: listed.append(path) or scandir(path))
    for count in (10, 100):
        root = files(*(f"{count}/{number}/a.png" for number in range(count))) / f"{count}"
        for number in range(count):
            (root / f"{number}" / "all").symlink_to(root)
        listed.clear()
        assert len(walk(root).pictures) == count
        assert len(listed) == count + 1


# What cannot be read


def test_a_folder_that_may_not_be_read_is_named(files, unreadable):
    root = files("a.png", "secret/b.png")
    unreadable("secret")
    found = walk(root)
    assert found.pictures == [root / "a.png"]
    assert found.omissions() == [f"{root / 'secret'}: cannot be read"]


@pytest.fixture
def old_pillow(monkeypatch):
    """Neither AVIF nor the plugin for HEIC."""
    monkeypatch.setattr(formats.features, "check", lambda _: False)
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    formats.readable_suffixes.cache_clear()
    yield
    formats.readable_suffixes.cache_clear()


@pytest.mark.usefixtures("old_pillow")
def test_pictures_in_formats_that_nothing_reads_are_counted_and_named(files):
    root = files("a.png", "b.HEIC", "c.heic", "d.avif", "e.cr2", "notes.txt")
    found = walk(root)
    assert found.pictures == [root / "a.png"]
    assert found.others == [root / "notes.txt"]
    assert found.omissions() == [
        f"{root / 'd.avif'}: AVIF pictures need a newer Pillow",
        f"{root / 'e.cr2'}: .cr2 pictures must be converted, to JPEG for instance",
        f"{root / 'b.HEIC'} and 1 more: HEIC pictures need pip install 'condu[heif]'",
    ]
