import errno
import gc
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis_profiles import with_shared_fixtures

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, IntegrityError
from condu_cli.registry.blobs import store as blobs_module
from condu_cli.registry.blobs.store import BlobStore
from condu_cli.registry.files.paths import RegistryPaths


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


def plant(store: BlobStore, header: object, data: bytes = b"") -> str:
    """Store a file with any header under its correct name, and return the name."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    sha256 = hashlib.sha256(content).hexdigest()
    store.path(sha256).parent.mkdir(exist_ok=True)
    store.path(sha256).write_bytes(content)
    return sha256


def test_what_was_put_is_read_back(store: BlobStore) -> None:
    ref = store.put(TENSORS, metadata={"codec": "condu", "tasks": 3})
    store.verify(ref.sha256)
    tensors = store.open(ref.sha256)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], tensor, strict=True)
    assert store.open(ref.sha256).metadata == {"codec": "condu", "tasks": 3}


@with_shared_fixtures()
@given(
    hnp.arrays(
        dtype=st.sampled_from(["<f4", ">f4", "<f2", "<f8", "<i8", ">i4", "<u2", "u1", "i1", "?"]),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    st.booleans(),
)
def test_any_array_in_any_memory_layout_survives(
    store: BlobStore, array: np.ndarray, transposed: bool
) -> None:
    given_array = array.T if transposed else array
    ref = store.put({"x": given_array})
    loaded = store.open(ref.sha256)["x"]
    native = given_array.astype(given_array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(loaded, native, strict=True)


@pytest.mark.parametrize(
    "array",
    [np.arange(-3, 3).reshape(2, 3), np.arange(6).reshape(2, 3).T, np.array(1.5), np.zeros((0, 2))],
    ids=["contiguous", "transposed", "no dimensions", "empty"],
)
def test_bfloat16_keeps_its_type_and_its_two_bytes(store: BlobStore, array: np.ndarray) -> None:
    given_array = array.astype(ml_dtypes.bfloat16)
    ref = store.put({"x": given_array})
    loaded = store.open(ref.sha256)["x"]
    assert loaded.dtype == ml_dtypes.bfloat16
    assert loaded.shape == array.shape
    assert loaded.tobytes() == given_array.tobytes()
    assert not loaded.flags.writeable
    assert b'"dtype":"BF16"' in store.path(ref.sha256).read_bytes()


def test_a_contiguous_array_is_written_in_place(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import save_file

    def recorded(tensors: dict[str, np.ndarray], *rest: object) -> None:
        assert np.shares_memory(tensors["x"], given_array)
        save_file(tensors, *rest)

    monkeypatch.setattr("safetensors.numpy.save_file", recorded)
    for dtype in (np.float32, np.uint8, ml_dtypes.bfloat16):
        given_array = np.ones((2, 3), dtype)
        store.put({"x": given_array})


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
        "from condu_cli.registry.blobs.store import BlobStore;"
        "from condu_cli.registry.files.paths import RegistryPaths;"
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
    assert store.open(store.put(TENSORS).sha256).metadata == {}


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
    store: BlobStore, paths: RegistryPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(blobs_module, "flush_file", lambda path: events.append("file"))
    monkeypatch.setattr(blobs_module, "flush_folder", lambda path: events.append(path.name))

    def recorded(path: Path, target: Path) -> Path:
        if path.parent.parent != paths.tmp:  # where safetensors writes
            events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", recorded)
    ref = store.put(TENSORS)
    assert events == ["file", "rename", ref.sha256[:2], "blobs"]


def test_the_bytes_are_hashed_while_they_are_flushed(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = threading.Barrier(2)
    sha256_of = blobs_module.file_sha256

    def hash_beside(path: Path) -> str:
        meeting.wait(30)
        return sha256_of(path)

    monkeypatch.setattr(blobs_module, "file_sha256", hash_beside)
    monkeypatch.setattr(blobs_module, "flush_file", lambda path: meeting.wait(30))
    ref = store.put(TENSORS)
    assert ref.sha256 == sha256_of(store.path(ref.sha256))


@pytest.fixture(params=["write", "flush", "rename"])
def full_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Simulate a disk that is full when the file is written, flushed or renamed."""

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
    assert hint_of(failed.value)
    assert files_in(paths.root) == []


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_nothing_of_several_blobs_either(
    store: BlobStore, paths: RegistryPaths
) -> None:
    with pytest.raises(ConduError, match="No space left on device") as failed:
        store.put_all({"x": np.full(n, n, np.float32)} for n in range(1, 6))
    assert str(paths.blobs) in failed.value.message
    assert files_in(paths.root) == []


def test_an_error_while_hashing_is_reported_like_one_of_the_disk(
    store: BlobStore, paths: RegistryPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(blobs_module, "file_sha256", fail)
    with pytest.raises(ConduError, match=f"cannot write a blob under .*{os.strerror(errno.EIO)}"):
        store.put(TENSORS)
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


def test_a_missing_tmp_folder_is_made(store: BlobStore, paths: RegistryPaths) -> None:
    paths.tmp.rmdir()
    ref = store.put(TENSORS)
    store.verify(ref.sha256)
    paths.tmp.rmdir()
    header, tensors = store.open(ref.sha256).header, dict(store.open(ref.sha256))
    store.remove(ref.sha256)
    store.put_again(ref.sha256, header, tensors)
    store.verify(ref.sha256)


def test_a_missing_registry_is_an_expected_failure(tmp_path: Path) -> None:
    store = BlobStore(RegistryPaths(tmp_path / "removed"))
    with pytest.raises(ConduError, match="No such file"):
        store.put(TENSORS)


def test_blobs_put_together_are_those_put_one_by_one(
    store: BlobStore, paths: RegistryPaths
) -> None:
    mappings = [{"x": np.full(n, n, np.float32)} for n in range(9)]
    refs = store.put_all(mappings)
    assert files_in(paths.tmp) == []
    before = {path: path.stat().st_mtime_ns for path in files_in(paths.blobs)}
    assert refs == [store.put(tensors) for tensors in mappings]
    assert {path: path.stat().st_mtime_ns for path in files_in(paths.blobs)} == before
    for ref, tensors in zip(refs, mappings, strict=True):
        store.verify(ref.sha256)
        np.testing.assert_array_equal(store.open(ref.sha256)["x"], tensors["x"])
    assert store.put_all([]) == []


def test_the_same_content_twice_in_one_call_is_stored_once(
    store: BlobStore, paths: RegistryPaths
) -> None:
    first, other, again = store.put_all([TENSORS, {"x": np.zeros(3)}, dict(TENSORS)])
    assert first == again != other
    assert {ref.sha256 for ref in store.all()} == {first.sha256, other.sha256}
    assert files_in(paths.tmp) == []


def test_blobs_put_together_are_all_flushed_and_their_folders_once(
    store: BlobStore, paths: RegistryPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    mappings = [{"x": np.full(n, n, np.float32)} for n in range(40)]
    events: list[str] = []
    flushed: set[str] = set()
    replace = Path.replace
    monkeypatch.setattr(blobs_module, "flush_file", lambda path: flushed.add(path.name))
    monkeypatch.setattr(blobs_module, "flush_folder", lambda path: events.append(path.name))

    def recorded(path: Path, target: Path) -> Path:
        if path.parent.parent == paths.tmp:  # where safetensors writes
            return replace(path, target)
        assert path.name in flushed
        assert not events
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", recorded)
    refs = store.put_all(mappings)
    assert events == [*sorted({ref.sha256[:2] for ref in refs}), "blobs"]
    events.clear()
    assert store.put_all([mappings[0], mappings[0]]) == [refs[0], refs[0]]
    assert events == [refs[0].sha256[:2], "blobs"]  # an earlier writer may not have flushed it


def test_an_array_that_cannot_be_stored_leaves_nothing_of_the_others(
    store: BlobStore, paths: RegistryPaths
) -> None:
    drawn = []

    def mappings() -> Iterator[dict[str, np.ndarray]]:
        for n in range(50):
            drawn.append(n)
            yield {"x": np.full(3, n, np.complex128 if n == 1 else np.float32)}

    with pytest.raises(ConduError, match=r"cannot write a blob under .*complex128") as failed:
        store.put_all(mappings())
    assert hint_of(failed.value)
    assert len(drawn) < 50
    assert files_in(paths.root) == []


def test_a_folder_that_cannot_be_made_leaves_no_drafts_and_sound_blobs(
    store: BlobStore, paths: RegistryPaths
) -> None:
    mappings = [{"x": np.full(n, n, np.float32)} for n in range(4)]
    refs = store.put_all(mappings)
    for ref in refs:
        store.path(ref.sha256).unlink()
        store.path(ref.sha256).parent.rmdir()
    obstacle = paths.blobs / refs[2].sha256[:2]
    obstacle.write_bytes(b"not a folder")
    with pytest.raises(ConduError, match="cannot write a blob under"):
        store.put_all(mappings)
    assert files_in(paths.tmp) == []
    assert set(store.all()) == set(refs[:2])
    for ref in refs[:2]:
        store.verify(ref.sha256)
    obstacle.unlink()
    assert store.put_all(mappings) == refs


@pytest.mark.parametrize("error", [OSError("no picture"), KeyError("x"), KeyboardInterrupt()])
def test_an_error_of_the_iterator_is_its_own(
    store: BlobStore, paths: RegistryPaths, error: BaseException
) -> None:
    def mappings() -> Iterator[dict[str, np.ndarray]]:
        yield TENSORS
        raise error

    with pytest.raises(type(error)) as failed:
        store.put_all(mappings())
    assert failed.value is error
    assert files_in(paths.root) == []


def test_an_iterator_is_one_mapping_ahead_and_stays_in_its_thread(store: BlobStore) -> None:
    class Tensors(dict[str, np.ndarray]):
        __hash__ = object.__hash__  # a WeakSet needs hashable members

    alive: weakref.WeakSet[Tensors] = weakref.WeakSet()
    most = 0

    def mappings() -> Iterator[Tensors]:
        nonlocal most
        for n in range(30):
            assert threading.current_thread() is threading.main_thread()
            tensors = Tensors(x=np.full(20_000, n, np.float32))
            alive.add(tensors)
            most = max(most, len(alive))
            yield tensors
            del tensors

    assert len(set(store.put_all(mappings()))) == 30
    assert 1 <= most <= blobs_module._THREADS + 1
    assert not alive


def test_a_missing_blob_is_named(store: BlobStore) -> None:
    for use in (store.open, store.verify, store.size):
        with pytest.raises(IntegrityError, match="a" * 64 + " is missing"):
            use("a" * 64)
    assert not store.exists("a" * 64)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_a_truncated_blob_is_named(store: BlobStore, kept: int) -> None:
    ref = store.put(TENSORS)
    path = store.path(ref.sha256)
    path.write_bytes(path.read_bytes()[:kept])
    for use in (store.open, store.verify):
        with pytest.raises(IntegrityError, match=ref.sha256):
            use(ref.sha256)


DAMAGED_HEADERS = {
    "no JSON": b"{not json at all",
    "a list": [],
    "longer than the file": b"",
    "an unknown dtype": {"x": {"dtype": "Q99", "shape": [2], "data_offsets": [0, 8]}},
    "a shape of another size": {"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
    "offsets past the end": {"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
    "offsets from before": {"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
    "no offsets": {"x": {"dtype": "F32", "shape": [2]}},
}


@pytest.mark.parametrize("header", DAMAGED_HEADERS.values(), ids=DAMAGED_HEADERS.keys())
def test_a_corrupt_header_is_named(store: BlobStore, header: object) -> None:
    sha256 = plant(store, header, bytes(8))
    if header == b"":
        content = bytearray(store.path(sha256).read_bytes())
        content[:8] = b"\xff" * 8
        store.path(sha256).write_bytes(content)
    with pytest.raises(IntegrityError, match=f"blob {sha256} is corrupt: ") as failed:
        store.open(sha256)
    assert "condu verify" in hint_of(failed.value)


def test_a_dtype_that_numpy_does_not_have_is_named_when_it_is_read(store: BlobStore) -> None:
    small = np.zeros(4, ml_dtypes.float8_e5m2)
    ref = store.put({"small": small, "x": np.ones(2, np.float32)})
    reader = store.open(ref.sha256)
    np.testing.assert_array_equal(reader["x"], np.ones(2, np.float32))
    with pytest.raises(IntegrityError, match=f"{ref.sha256} is corrupt: tensor 'small' .* F8_E5M2"):
        reader["small"]
    with pytest.raises(IntegrityError, match=r"F8_E5M2"):
        dict(store.open(ref.sha256))


@pytest.mark.parametrize("kept", [0, 40, -1])
def test_a_file_that_is_cut_right_after_its_check_is_named(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    import safetensors

    safe_open = safetensors.safe_open
    ref = store.put(TENSORS)

    def cut_after(path: Path, framework: str) -> object:
        file = safe_open(path, framework=framework)
        path.write_bytes(path.read_bytes()[:kept])
        return file

    monkeypatch.setattr(safetensors, "safe_open", cut_after)
    with pytest.raises(IntegrityError, match=f"blob {ref.sha256} is corrupt"):
        dict(store.open(ref.sha256))


@with_shared_fixtures()
@given(st.data())
def test_no_flipped_bit_escapes_verify(store: BlobStore, data: st.DataObject) -> None:
    ref = store.put(TENSORS, metadata={"x": 1})
    path = store.path(ref.sha256)
    sound = path.read_bytes()
    bit = data.draw(st.integers(0, len(sound) * 8 - 1))
    corrupt = bytearray(sound)
    corrupt[bit // 8] ^= 1 << bit % 8
    path.write_bytes(corrupt)
    try:
        with pytest.raises(IntegrityError, match=ref.sha256):
            store.verify(ref.sha256)
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize("text", ["not json", "[1]"])
def test_foreign_metadata_is_not_a_record(
    store: BlobStore, paths: RegistryPaths, text: str
) -> None:
    from safetensors.numpy import save

    content = save(TENSORS, {"condu": text})
    sha256 = hashlib.sha256(content).hexdigest()
    store.path(sha256).parent.mkdir()
    store.path(sha256).write_bytes(content)
    with pytest.raises(IntegrityError, match="metadata"):
        _ = store.open(sha256).metadata


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


def test_tensors_are_read_only_views(store: BlobStore) -> None:
    ref = store.put(TENSORS)
    tensor = store.open(ref.sha256)["delta"]
    assert not tensor.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        tensor[0, 0] = 7
    with pytest.raises(ValueError, match="WRITEABLE"):
        tensor.flags.writeable = True
    store.verify(ref.sha256)


def test_a_tensor_is_made_once(store: BlobStore) -> None:
    reader = store.open(store.put(TENSORS).sha256)
    assert reader["mask"] is reader["mask"]


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0, 2)])
def test_tensors_of_one_number_or_none_have_their_shape(
    store: BlobStore, shape: tuple[int, ...]
) -> None:
    for others in ({}, {"a": np.ones(3, np.uint8), "z": np.ones(2, np.int64)}):
        ref = store.put({"x": np.ones(shape, np.float32), **others})
        tensor = store.open(ref.sha256)["x"]
        np.testing.assert_array_equal(tensor, np.ones(shape, np.float32), strict=True)
        assert not tensor.flags.writeable


def test_a_tensor_at_an_odd_offset_is_read(store: BlobStore) -> None:
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    numbers = np.array([1.5, -2.0], np.float32)
    sha256 = plant(store, header, b"\x07" + numbers.tobytes())
    np.testing.assert_array_equal(store.open(sha256)["b"], numbers, strict=True)


def test_tensors_outlive_their_reader_their_blob_and_its_repair(store: BlobStore) -> None:
    ref = store.put(TENSORS)
    tensors = dict(store.open(ref.sha256))
    gc.collect()
    store.path(ref.sha256).unlink()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, TENSORS[name], strict=True)
    assert store.put(tensors) == ref  # read from the unlinked file
    store.verify(ref.sha256)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="mappings are listed on Linux")
def test_a_mapping_ends_with_its_last_tensor_and_keeps_no_file_open(store: BlobStore) -> None:
    ref = store.put(TENSORS)
    path = str(store.path(ref.sha256))

    def is_mapped() -> bool:
        return path in Path("/proc/self/maps").read_text()

    def is_open() -> bool:
        targets = []
        for link in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # the listing's own
                targets.append(os.readlink(link))
        return path in targets

    reader = store.open(ref.sha256)
    tensor = reader["mask"]
    del reader
    np.testing.assert_array_equal(tensor, TENSORS["mask"])
    assert is_mapped()
    assert not is_open()
    del tensor
    assert not is_mapped()


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64])
def test_a_name_that_is_not_a_hash_never_becomes_a_path(store: BlobStore, name: str) -> None:
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


# --- restoring and removing -------------------------------------------------------------------


def test_a_blob_is_restored_bit_for_bit_from_its_header_and_its_tensors(
    store: BlobStore, paths: RegistryPaths
) -> None:
    ref = store.put(TENSORS, metadata={"codec": "condu"})
    header, content = store.open(ref.sha256).header, store.path(ref.sha256).read_bytes()
    assert store.remove(ref.sha256) == ref.size
    assert not store.exists(ref.sha256)
    store.put_again(ref.sha256, header, TENSORS)
    assert store.path(ref.sha256).read_bytes() == content
    assert files_in(paths.tmp) == []


def test_a_blob_restored_differently_is_refused_and_leaves_nothing(
    store: BlobStore, paths: RegistryPaths
) -> None:
    ref = store.put(TENSORS)
    header = store.open(ref.sha256).header
    store.remove(ref.sha256)
    other = {**TENSORS, "mask": TENSORS["mask"][::-1]}
    for wrong in (other, {"mask": TENSORS["mask"]}):
        with pytest.raises(IntegrityError, match=f"{ref.sha256} cannot be restored"):
            store.put_again(ref.sha256, header, wrong)
    assert files_in(paths.root) == []


def test_a_sound_blob_is_not_written_again(store: BlobStore) -> None:
    ref = store.put(TENSORS)
    before = store.path(ref.sha256).stat()
    store.put_again(ref.sha256, store.open(ref.sha256).header, TENSORS)
    assert store.path(ref.sha256).stat().st_ino == before.st_ino


def test_a_full_disk_leaves_nothing_of_a_restored_blob(
    store: BlobStore, paths: RegistryPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = store.put(TENSORS)
    header = store.open(ref.sha256).header
    store.remove(ref.sha256)

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(blobs_module, "flush_file", full)
    with pytest.raises(ConduError, match="No space left on device"):
        store.put_again(ref.sha256, header, TENSORS)
    assert files_in(paths.root) == []


def test_removing_tells_what_it_frees_and_takes_an_empty_folder_along(
    store: BlobStore, paths: RegistryPaths
) -> None:
    ref = store.put(TENSORS)
    assert store.remove(ref.sha256) == ref.size
    assert list(paths.blobs.iterdir()) == []
    assert store.remove(ref.sha256) == 0


def test_a_folder_with_others_in_it_stays(store: BlobStore) -> None:
    ref = store.put(TENSORS)
    other = store.path(ref.sha256).with_name("thesis.txt")
    other.write_text("mine")
    store.remove(ref.sha256)
    assert other.read_text() == "mine"


def test_what_cannot_be_removed_is_named(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = store.put(TENSORS)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ConduError, match=f"cannot remove blob {ref.sha256}: Permission denied"):
        store.remove(ref.sha256)


def test_a_reader_verifies_what_it_has_mapped_though_the_file_is_gone(store: BlobStore) -> None:
    ref = store.put(TENSORS)
    reader = store.open(ref.sha256)
    store.remove(ref.sha256)
    reader.verify()
    assert (reader.sha256, reader.size) == (ref.sha256, ref.size)
    np.testing.assert_array_equal(reader["delta"], TENSORS["delta"])
    with pytest.raises(IntegrityError, match="missing"):
        store.open(ref.sha256)


def test_a_reader_notices_a_corrupt_file(store: BlobStore) -> None:
    ref = store.put(TENSORS)
    content = bytearray(store.path(ref.sha256).read_bytes())
    content[-1] ^= 1
    store.path(ref.sha256).write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{ref.sha256} is corrupt: its sha256"):
        store.open(ref.sha256).verify()


def test_metadata_that_is_too_deep_is_not_a_record(store: BlobStore) -> None:
    from safetensors.numpy import save

    content = save(TENSORS, {"condu": "[" * 100_000})
    sha256 = hashlib.sha256(content).hexdigest()
    store.path(sha256).parent.mkdir()
    store.path(sha256).write_bytes(content)
    with pytest.raises(IntegrityError, match="metadata is not JSON"):
        _ = store.open(sha256).metadata


# --- links ------------------------------------------------------------------------------------


@pytest.fixture(params=["blob", "folder"])
def linked(
    request: pytest.FixtureRequest, store: BlobStore, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """Return the name of a blob behind a link, and where its file is."""
    sha256 = store.put(TENSORS).sha256
    place = store.path(sha256) if request.param == "blob" else store.path(sha256).parent
    target = tmp_path_factory.mktemp("elsewhere") / place.name
    place.rename(target)
    place.symlink_to(target)
    return sha256, target if request.param == "blob" else target / sha256


def test_a_blob_behind_a_link_is_not_read(store: BlobStore, linked: tuple[str, Path]) -> None:
    sha256, _ = linked
    assert not store.exists(sha256)
    assert list(store.all()) == []
    for use in (store.open, store.verify):
        with pytest.raises(IntegrityError, match=f"{sha256} is corrupt: it is a symbolic link"):
            use(sha256)


def test_nothing_is_written_through_a_link(store: BlobStore, linked: tuple[str, Path]) -> None:
    sha256, target = linked
    target.write_bytes(b"someone else's")
    if store.path(sha256).parent.is_symlink():
        with pytest.raises(IntegrityError, match="symbolic link"):
            store.put(TENSORS)
    else:
        store.put(TENSORS)
        store.verify(sha256)
        assert not store.path(sha256).is_symlink()
    assert target.read_bytes() == b"someone else's"


def test_nothing_is_removed_through_a_link(store: BlobStore, linked: tuple[str, Path]) -> None:
    sha256, target = linked
    if store.path(sha256).parent.is_symlink():
        with pytest.raises(IntegrityError, match="symbolic link"):
            store.remove(sha256)
    else:
        store.remove(sha256)
        assert not store.path(sha256).is_symlink()
    assert target.is_file()


def test_no_draft_is_written_through_a_link(store: BlobStore, paths: RegistryPaths) -> None:
    elsewhere = paths.root / "elsewhere"
    elsewhere.mkdir()
    paths.tmp.rmdir()
    paths.tmp.symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match=r"tmp is a symbolic link"):
        store.put(TENSORS)
    assert files_in(paths.root) == []
