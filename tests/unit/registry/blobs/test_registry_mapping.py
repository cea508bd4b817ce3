"""Files mapped without a descriptor stay readable for as long as they are in use."""

import errno
import gc
from pathlib import Path

import numpy as np
import pytest

from condu_cli.errors import ExhaustedError, IntegrityError, exhausted
from condu_cli.registry.blobs import store as store_module
from condu_cli.registry.blobs import tensor_files
from condu_cli.registry.blobs.mapping import map_file
from condu_cli.registry.blobs.store import BlobStore
from condu_cli.registry.copies import snapshot
from condu_cli.registry.files.paths import RegistryPaths

LINUX = Path("/proc/self")
needs_proc = pytest.mark.skipif(not LINUX.exists(), reason="asks /proc")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 40)
    return path


def descriptors() -> int:
    return len(list((LINUX / "fd").iterdir()))


def is_mapped(path: Path) -> bool:
    return str(path) in (LINUX / "maps").read_text()


def test_a_mapping_has_the_bytes_of_the_file(file: Path) -> None:
    assert bytes(map_file(file)) == file.read_bytes()


def test_it_is_read_only(file: Path) -> None:
    view = map_file(file)
    assert view.readonly
    assert not np.frombuffer(view, np.uint8).flags.writeable


def test_it_is_readable_after_the_file_was_removed(file: Path) -> None:
    content, view = file.read_bytes(), map_file(file)
    file.unlink()
    assert bytes(view) == content


def test_an_array_keeps_it_alive(file: Path) -> None:
    content = file.read_bytes()
    array = np.frombuffer(map_file(file), np.uint8, 256, 256)[3:9]
    gc.collect()
    assert array.tobytes() == content[259:265]


@needs_proc
def test_it_needs_no_descriptor_and_is_unmapped_with_the_last_view(file: Path) -> None:
    before = descriptors()
    array = np.frombuffer(map_file(file), np.uint8)[5:]
    assert descriptors() == before
    assert is_mapped(file)
    del array
    gc.collect()
    assert not is_mapped(file)


def test_an_empty_file_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty"):
        map_file(tmp_path / "empty")


# A refusal by the system does not mean a corrupt file


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    paths = RegistryPaths(tmp_path / "registry")
    for folder in (paths.blobs, paths.tmp):
        folder.mkdir(parents=True)
    return BlobStore(paths)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_too_many_files_or_too_little_memory_is_not_corruption(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    sha256 = store.put({"x": np.zeros(3)}).sha256

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, "refused")

    monkeypatch.setattr(tensor_files, "map_file", refuse)
    with pytest.raises(ExhaustedError):
        store.open(sha256)
    monkeypatch.setattr(store_module, "file_sha256", refuse)
    with pytest.raises(ExhaustedError):
        store.verify(sha256)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ExhaustedError):
        list(snapshot.verified_chunks(store.path(sha256), sha256))


def test_a_disk_that_fails_is_corruption(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = store.put({"x": np.zeros(3)}).sha256

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(tensor_files, "map_file", fail)
    with pytest.raises(IntegrityError, match="Input/output error"):
        store.open(sha256)


def test_only_an_error_of_the_system_can_say_so() -> None:
    assert exhausted(ValueError("24")) is None
    assert exhausted(FileNotFoundError(errno.ENOENT, "")) is None
