import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from condu_cli.errors import ConduError, IntegrityError, UsageError
from condu_cli.registry.blobs import store as blobs_module
from condu_cli.registry.blobs.kept_files import TaskFiles
from condu_cli.registry.files.paths import RegistryPaths

ARRAYS = {"delta/w": np.arange(6, dtype=np.float32).reshape(2, 3), "prototypes/n": np.ones(2)}
RECORD = {"kind": "learn", "training": {"run": "0123", "loss": 0.5}, "folder": None}


@pytest.fixture
def paths(tmp_path: Path) -> RegistryPaths:
    paths = RegistryPaths(tmp_path)
    paths.tmp.mkdir()
    return paths


@pytest.fixture
def waiting(paths: RegistryPaths) -> TaskFiles:
    return TaskFiles(paths, paths.trained, "trained expert")


def age(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))


def test_what_was_saved_is_read_back(waiting: TaskFiles) -> None:
    saved = waiting.save("pets", ARRAYS, RECORD)
    (found,) = waiting.all()
    assert (found.task, found.metadata, found.path) == ("pets", RECORD, saved.path)
    assert found.size == saved.path.stat().st_size
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    found.verify()


def test_it_is_named_by_its_task_and_its_content(waiting: TaskFiles, paths: RegistryPaths) -> None:
    path = waiting.save("pets.v2", ARRAYS, RECORD).path
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path == paths.trained / f"pets.v2.{sha256}.safetensors"
    assert waiting.save("pets.v2", ARRAYS, RECORD).path == path
    assert waiting.open(path).task == "pets.v2"
    assert list(paths.tmp.iterdir()) == []


def test_nothing_waits_before_the_first(waiting: TaskFiles, paths: RegistryPaths) -> None:
    assert waiting.all() == waiting.paths() == []
    assert not paths.trained.exists()


def test_the_oldest_comes_first(waiting: TaskFiles) -> None:
    saved = [waiting.save("pets", ARRAYS, {"n": n}) for n in range(4)]
    for seconds, expert in zip((30, 10, 40, 20), saved, strict=True):
        age(expert.path, seconds)
    assert [expert.metadata["n"] for expert in waiting.all()] == [1, 3, 0, 2]


def test_those_of_one_task_are_told_apart(waiting: TaskFiles) -> None:
    for task in ("a", "a.b", "b"):
        waiting.save(task, ARRAYS, RECORD)
    assert [waiting.open(path).task for path in waiting.paths("a")] == ["a"]
    assert waiting.paths("c") == []


def test_the_folder_stays_when_the_last_has_gone(waiting: TaskFiles, paths: RegistryPaths) -> None:
    first, second = (waiting.save(task, ARRAYS, RECORD).path for task in "ab")
    waiting.remove(first)
    assert [expert.task for expert in waiting.all()] == ["b"]
    waiting.remove(second)
    waiting.remove(second)
    assert waiting.all() == []
    assert list(paths.trained.iterdir()) == []


def test_the_last_may_be_removed_while_another_is_written(
    waiting: TaskFiles, paths: RegistryPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process commits the last file after this one has looked for the folder."""
    last, write = waiting.save("a", ARRAYS, RECORD).path, blobs_module.write_tensor_file

    def written(*args: object) -> None:
        write(*args)  # type: ignore[arg-type]
        TaskFiles(paths, paths.trained, "trained expert").remove(last)

    monkeypatch.setattr(blobs_module, "write_tensor_file", written)
    waiting.save("b", ARRAYS, RECORD).verify()
    assert [expert.task for expert in waiting.all()] == ["b"]


def test_one_removed_while_they_are_listed_or_opened_is_skipped(
    waiting: TaskFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, stays = (waiting.save(task, ARRAYS, RECORD).path for task in "ab")
    listed = waiting.paths()
    gone.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(waiting, "paths", lambda: listed)
        assert [expert.task for expert in waiting.all()] == ["b"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", lambda *_: iter(listed))
        assert waiting.paths() == [stays]


@pytest.mark.parametrize("task", ["../etc", "", "-x", "a/b"])
def test_a_name_that_no_task_has_is_written_nowhere(
    waiting: TaskFiles, paths: RegistryPaths, task: str
) -> None:
    with pytest.raises(UsageError):
        waiting.save(task, ARRAYS, RECORD)
    assert not paths.trained.exists()


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "pets.safetensors", f"pets.{'A' * 64}.safetensors", f"{'a' * 64}.safetensors"]
    + [f"{task}.{'a' * 64}.safetensors" for task in ("-x", "a b", "\x1b[2J", "ä")],
)
def test_a_file_of_another_name_is_not_an_expert(
    waiting: TaskFiles, paths: RegistryPaths, name: str
) -> None:
    paths.trained.mkdir()
    (paths.trained / name).write_text("mine")
    assert waiting.paths() == []
    with pytest.raises(IntegrityError, match="is not a trained expert"):
        waiting.open(paths.trained / name)


def test_a_corrupt_one_is_noticed_when_it_is_verified(waiting: TaskFiles) -> None:
    path = waiting.save("pets", ARRAYS, RECORD).path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (expert,) = waiting.all()
    with pytest.raises(IntegrityError, match="sha256 does not match"):
        expert.verify()


@pytest.mark.parametrize("kept", [0, 10, -1])
def test_one_that_is_cut_short_is_an_integrity_error(waiting: TaskFiles, kept: int) -> None:
    path = waiting.save("pets", ARRAYS, RECORD).path
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(IntegrityError, match="is corrupt") as caught:
        waiting.all()
    assert caught.value.message.startswith(f"the trained expert {path} is corrupt: ")
    assert "blob" not in caught.value.message
    assert caught.value.facts["task"] == "pets"
    assert waiting.paths("pets") == [path]  # which opens nothing


def test_one_that_is_gone_is_missing_and_no_blob(waiting: TaskFiles) -> None:
    saved = waiting.save("pets", ARRAYS, RECORD)
    saved.path.unlink()
    with pytest.raises(IntegrityError) as caught:
        waiting.open(saved.path)
    assert caught.value.message == f"the trained expert {saved.path} is missing"


def test_what_is_none_of_its_files_is_unknown(waiting: TaskFiles, paths: RegistryPaths) -> None:
    assert list(waiting.unknown()) == []
    saved = waiting.save("pets", ARRAYS, RECORD).path
    (paths.trained / "notes.txt").write_text("mine")
    (paths.trained / "folder").mkdir()
    link = paths.trained / saved.name.replace("pets", "cars")
    link.symlink_to(saved)
    assert list(waiting.unknown()) == [link, paths.trained / "folder", paths.trained / "notes.txt"]


def test_a_link_is_not_followed(waiting: TaskFiles, tmp_path: Path) -> None:
    path = waiting.save("pets", ARRAYS, RECORD).path
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="symbolic link"):
        waiting.open(path)


def test_a_full_disk_leaves_nothing_and_names_the_folder(
    waiting: TaskFiles, paths: RegistryPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(blobs_module, "flush_file", full)
    with pytest.raises(ConduError, match="No space left on device") as failed:
        waiting.save("pets", ARRAYS, RECORD)
    assert str(paths.trained) in failed.value.message
    assert [path for path in paths.root.rglob("*") if path.is_file()] == []


def test_missing_folders_are_made(waiting: TaskFiles, paths: RegistryPaths) -> None:
    paths.tmp.rmdir()
    waiting.save("pets", ARRAYS, RECORD).verify()
