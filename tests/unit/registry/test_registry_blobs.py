import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from condu_cli.errors import ConduError, IntegrityError
from condu_cli.registry import blobs as blobs_module
from condu_cli.registry.blobs import BlobStore
from condu_cli.registry.paths import RegistryPaths


@pytest.fixture
def paths(tmp_path: Path) -> RegistryPaths:
    paths = RegistryPaths(tmp_path)
    paths.blobs.mkdir()
    paths.tmp.mkdir()
    return paths


@pytest.fixture
def store(paths: RegistryPaths) -> BlobStore:
    return BlobStore(paths)


TENSORS = {"mask": np.arange(8, dtype=np.uint8), "delta": np.ones((2, 3), np.float32)}


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_was_put_is_read_back(store: BlobStore) -> None:
    ref = store.put(TENSORS, metadata={"codec": "condu", "tasks": 3})
    tensors = store.load(ref.sha256, verify=True)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], tensor, strict=True)
    assert store.metadata(ref.sha256) == {"codec": "condu", "tasks": 3}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    hnp.arrays(
        dtype=st.sampled_from(["<f4", ">f4", "<f2", "<i8", ">i4", "u1", "?"]),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    st.booleans(),
)
def test_any_array_in_any_memory_layout_survives(
    store: BlobStore, array: np.ndarray, transposed: bool
) -> None:
    given_array = array.T if transposed else array
    ref = store.put({"x": given_array})
    np.testing.assert_array_equal(store.load(ref.sha256)["x"], given_array)


def test_a_blob_is_named_by_the_sha256_of_its_file(store: BlobStore, paths: RegistryPaths) -> None:
    ref = store.put(TENSORS)
    path = paths.blobs / ref.sha256[:2] / ref.sha256
    assert store.path(ref.sha256) == path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ref.sha256
    assert ref.size == path.stat().st_size == store.size(ref.sha256)


def test_the_same_content_has_the_same_name_in_every_process(store: BlobStore) -> None:
    metadata = {f"key{n}": n for n in range(20)}
    first = store.put(TENSORS, metadata=metadata)
    again = store.put(dict(reversed(TENSORS.items())), metadata=dict(reversed(metadata.items())))
    assert again == first
    code = (
        "import sys, numpy as np; from pathlib import Path;"
        "from condu_cli.registry.blobs import BlobStore;"
        "from condu_cli.registry.paths import RegistryPaths;"
        "store = BlobStore(RegistryPaths(Path(sys.argv[1])));"
        "tensors = {'mask': np.arange(8, dtype=np.uint8), 'delta': np.ones((2, 3), np.float32)};"
        "print(store.put(tensors, metadata={f'key{n}': n for n in range(20)}).sha256)"
    )
    root = store.path(first.sha256).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == first.sha256
    assert [ref.sha256 for ref in store.all()] == [first.sha256]


def test_metadata_is_part_of_the_content(store: BlobStore) -> None:
    names = {
        store.put(TENSORS).sha256,
        store.put(TENSORS, metadata={}).sha256,
        store.put(TENSORS, metadata={"x": 1}).sha256,
    }
    assert len(names) == 3
    assert store.metadata(store.put(TENSORS).sha256) == {}


def test_an_existing_blob_is_kept_and_the_draft_dropped(
    store: BlobStore, paths: RegistryPaths
) -> None:
    ref = store.put(TENSORS)
    before = store.path(ref.sha256).stat()
    store.put(TENSORS)
    after = store.path(ref.sha256).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert files_in(paths.tmp) == []


def test_putting_the_content_of_a_truncated_blob_again_heals_it(store: BlobStore) -> None:
    ref = store.put(TENSORS)
    path = store.path(ref.sha256)
    path.write_bytes(path.read_bytes()[:-1])
    assert store.put(TENSORS) == ref
    store.verify(ref.sha256)


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_file_mode_follows_the_umask(store: BlobStore, umask: int, mode: int) -> None:
    previous = os.umask(umask)
    try:
        ref = store.put(TENSORS)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(store.path(ref.sha256).stat().st_mode) == mode


def test_bytes_are_flushed_before_the_rename_and_the_folder_after(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(blobs_module, "flush_file", lambda path: events.append("file"))
    monkeypatch.setattr(blobs_module, "flush_folder", lambda path: events.append(path.name))

    def recorded(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", recorded)
    ref = store.put(TENSORS)
    assert events == ["file", "rename", ref.sha256[:2], "blobs"]


@pytest.fixture(params=["write", "flush", "rename"])
def full_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A disk that is full when the file is written, flushed or renamed."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse_half_way(_: object, path: Path, *__: object) -> None:
        path.write_bytes(b"half of it")
        refuse()

    with monkeypatch.context() as patch:
        if request.param == "write":
            patch.setattr("safetensors.numpy.save_file", refuse_half_way)
        elif request.param == "flush":
            patch.setattr(blobs_module, "flush_file", refuse)
        else:
            patch.setattr(Path, "replace", refuse)
        yield


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_nothing_and_names_the_folder(
    store: BlobStore, paths: RegistryPaths
) -> None:
    with pytest.raises(ConduError) as failed:
        store.put(TENSORS)
    assert type(failed.value) is ConduError
    assert "No space left on device" in failed.value.message
    assert str(paths.blobs) in failed.value.message
    assert failed.value.hint
    assert files_in(paths.root) == []


def test_an_error_inside_safetensors_is_reported_like_one_of_the_disk(
    store: BlobStore, paths: RegistryPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    def fail(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(ConduError, match="os error 28"):
        store.put(TENSORS)
    assert files_in(paths.root) == []


def test_a_missing_tmp_folder_is_an_expected_failure(
    store: BlobStore, paths: RegistryPaths
) -> None:
    paths.tmp.rmdir()
    with pytest.raises(ConduError, match="No such file"):
        store.put(TENSORS)


def test_a_missing_blob_is_named(store: BlobStore) -> None:
    for use in (store.open, store.load, store.verify, store.size, store.metadata):
        with pytest.raises(IntegrityError, match="a" * 64 + " is missing"):
            use("a" * 64)
    assert not store.exists("a" * 64)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_a_truncated_blob_is_named(store: BlobStore, kept: int) -> None:
    ref = store.put(TENSORS)
    path = store.path(ref.sha256)
    path.write_bytes(path.read_bytes()[:kept])
    for use in (store.open, store.load, store.verify):
        with pytest.raises(IntegrityError, match=ref.sha256):
            use(ref.sha256)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_flipped_bit_escapes_verify(store: BlobStore, data: st.DataObject) -> None:
    ref = store.put(TENSORS, metadata={"x": 1})
    path = store.path(ref.sha256)
    sound = path.read_bytes()
    bit = data.draw(st.integers(0, len(sound) * 8 - 1))
    damaged = bytearray(sound)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        with pytest.raises(IntegrityError, match=ref.sha256):
            store.load(ref.sha256, verify=True)
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize("text", ["not json", "[1]"])
def test_foreign_metadata_is_no_record(store: BlobStore, paths: RegistryPaths, text: str) -> None:
    from safetensors.numpy import save

    content = save(TENSORS, {"condu": text})
    sha256 = hashlib.sha256(content).hexdigest()
    store.path(sha256).parent.mkdir()
    store.path(sha256).write_bytes(content)
    with pytest.raises(IntegrityError, match="metadata"):
        store.metadata(sha256)


def test_tensors_are_read_when_they_are_asked_for(store: BlobStore) -> None:
    ref = store.put(TENSORS)
    reader = store.open(ref.sha256)
    assert sorted(reader) == ["delta", "mask"]
    assert len(reader) == 2
    assert "delta" in reader
    assert "x" not in reader
    with pytest.raises(KeyError):
        reader["x"]
    np.testing.assert_array_equal(reader["mask"], TENSORS["mask"])


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64])
def test_a_name_that_is_no_hash_never_becomes_a_path(store: BlobStore, name: str) -> None:
    with pytest.raises(IntegrityError):
        store.path(name)


def test_all_lists_blobs_only(store: BlobStore, paths: RegistryPaths) -> None:
    refs = {store.put({"x": np.full(n, n, np.float32)}) for n in range(1, 6)}
    (paths.blobs / "ab").mkdir(exist_ok=True)
    (paths.blobs / "ab" / "notes.txt").write_text("not a blob")
    (paths.blobs / "ab" / ("cd" + "0" * 62)).write_text("in the wrong folder")
    assert set(store.all()) == refs
    assert [ref.sha256 for ref in store.all()] == sorted(ref.sha256 for ref in refs)


def test_the_record_is_one_json_string_under_one_key(store: BlobStore) -> None:
    ref = store.put(TENSORS, metadata={"b": 1, "a": 2})
    content = store.path(ref.sha256).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"] == {"condu": '{"a":2,"b":1}'}
