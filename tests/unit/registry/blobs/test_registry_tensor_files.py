import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from condu_cli.errors import IntegrityError
from condu_cli.registry.blobs.store import check_blob
from condu_cli.registry.blobs.tensor_files import (
    TensorFile,
    TensorFileError,
    file_pieces,
    write_tensor_file,
)

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
DTYPES = ["<f4", "<f2", "<f8", "<i8", "<i4", "<u2", "u1", "i1", "?", "<c8", ml_dtypes.bfloat16]


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, np.ndarray]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    found = {}
    for name in draw(
        st.lists(NAMES.filter(lambda n: n != "__metadata__"), max_size=4, unique=True)
    ):
        shape, dtype = draw(shapes), np.dtype(draw(st.sampled_from(DTYPES)))
        found[name] = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    return found


def joined(header: bytes, arrays: dict[str, np.ndarray]) -> bytes:
    return b"".join(file_pieces(header, arrays))


def headed(header: object) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def read(path: Path) -> tuple[bytes, dict[str, np.ndarray]]:
    file = TensorFile(path)
    return file.header, {name: file.view(name) for name in file.names}


@given(tensors(), st.none() | st.dictionaries(NAMES, st.text(max_size=8), min_size=1, max_size=1))
def test_any_file_is_written_again_from_its_header_and_its_tensors(
    arrays: dict[str, np.ndarray], metadata: dict[str, str] | None
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "x")
        write_tensor_file(path, arrays, metadata)
        content = path.read_bytes()
        header, found = read(path)
        assert header == content[: len(header)]
        assert joined(header, found) == content
        assert joined(header, {name: arrays[name] for name in reversed(arrays)}) == content
        check_blob(hashlib.sha256(content).hexdigest(), header, arrays)
        assert TensorFile(path).metadata == (metadata or {})
        assert TensorFile(path).mapped[:] == content


def test_the_header_of_another_writer_is_restored_bit_for_bit(tmp_path: Path) -> None:
    """Order of names, spaces and padding are all part of the hash."""
    text = (
        b'{ "b" : {"data_offsets":[0,8], "shape":[2],"dtype":"F32"} ,\n'
        b'"__metadata__":{"z":"1"}, "a":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}      '
    )
    content = headed(text) + np.array([1.5, -2.0], np.float32).tobytes() + b"\x01\x02\x03"
    path = tmp_path / "x"
    path.write_bytes(content)
    header, arrays = read(path)
    assert header == headed(text)
    assert joined(header, arrays) == content
    again = tmp_path / "y"
    write_tensor_file(again, arrays, {"z": "1"})
    assert again.read_bytes() != content


def test_the_pieces_are_the_tensors_memory(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32)
    write_tensor_file(tmp_path / "x", {"x": array}, None)
    _, piece = file_pieces(TensorFile(tmp_path / "x").header, {"x": array})
    assert np.shares_memory(np.asarray(piece), array)


def test_tensors_in_another_order_of_memory_or_bytes_are_written_the_same(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_tensor_file(tmp_path / "x", {"x": array}, None)
    header = TensorFile(tmp_path / "x").header
    for other in (np.asfortranarray(array), array.astype(">f4")):
        assert joined(header, {"x": other}) == (tmp_path / "x").read_bytes()


ENTRY = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
HOSTILE: dict[str, object] = {
    "no JSON": b"{",
    "not UTF-8": b'{"\xff',
    "a list": [],
    "a number": 7,
    "deep": b"[" * 100_000,
    "an entry that is not an object": {"x": 7},
    "an entry that is a list": {"x": []},
    "no offsets": {"x": {"dtype": "U8", "shape": [4]}},
    "one offset": {"x": {**ENTRY, "data_offsets": [0]}},
    "three offsets": {"x": {**ENTRY, "data_offsets": [0, 2, 4]}},
    "offsets that are not a list": {"x": {**ENTRY, "data_offsets": 4}},
    "offsets that are strings": {"x": {**ENTRY, "data_offsets": ["0", "4"]}},
    "offsets that are not integers": {"x": {**ENTRY, "data_offsets": [0.0, 4.0]}},
    "offsets that are booleans": {"x": {**ENTRY, "data_offsets": [False, True]}},
    "infinite offsets": b'{"x":{"data_offsets":[0,1e999]}}',
    "negative offsets": {"x": {**ENTRY, "data_offsets": [-4, 0]}},
    "offsets that go back": {"x": {**ENTRY, "data_offsets": [4, 0]}},
    "a hole before": {"x": {**ENTRY, "data_offsets": [1, 5]}},
    "another size": {"x": {**ENTRY, "data_offsets": [0, 5]}},
    "another name": {"y": ENTRY},
    "one tensor more": {"x": ENTRY, "y": {**ENTRY, "data_offsets": [4, 8]}},
    "no tensor": {},
}


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_header_that_does_not_fit_the_tensors_is_refused(header: object) -> None:
    arrays = {"x": np.arange(4, dtype=np.uint8)}
    with pytest.raises(TensorFileError):
        file_pieces(headed(header), arrays)
    with pytest.raises(IntegrityError, match="cannot be restored from its patch"):
        check_blob("a" * 64, headed(header), arrays)


@pytest.mark.parametrize("places", [([0, 4], ["4", "8"]), ([0, 4], [2, 6]), ([0, 4], [0, 4])])
def test_tensors_that_overlap_or_have_mixed_places_are_refused(places: tuple[object, ...]) -> None:
    header = {name: {**ENTRY, "data_offsets": at} for name, at in zip("xy", places, strict=True)}
    with pytest.raises(TensorFileError):
        file_pieces(headed(header), dict.fromkeys("xy", np.arange(4, dtype=np.uint8)))


def test_a_header_shorter_than_its_length_is_refused() -> None:
    with pytest.raises(TensorFileError):
        file_pieces(b"\0\0", {})


@given(st.binary(max_size=60))
def test_any_header_is_accepted_or_refused(noise: bytes) -> None:
    try:
        pieces = file_pieces(headed(noise), {})
    except TensorFileError:
        return
    assert pieces == [headed(noise)]


def test_a_blob_that_came_back_with_one_other_bit_is_refused(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32)
    write_tensor_file(tmp_path / "x", {"x": array}, None)
    content, header = (tmp_path / "x").read_bytes(), TensorFile(tmp_path / "x").header
    sha256 = hashlib.sha256(content).hexdigest()
    check_blob(sha256, header, {"x": array})
    array[0] = -0.0
    with pytest.raises(IntegrityError, match=f"{sha256} cannot be restored"):
        check_blob(sha256, header, {"x": array})
