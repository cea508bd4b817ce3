"""The arrays that the codec `condu` writes: later versions must be able to read them."""

import numpy as np
import pytest

from condu_cli.core.arrays.layout import ParameterLayout
from condu_cli.core.codecs.condu.codec import ConduCodec
from condu_cli.core.codecs.condu.entropy import compress
from condu_cli.core.codecs.interface import EMPTY, EncodedState
from condu_cli.core.codecs.known import codec_by_name

LAYOUT = ParameterLayout(("conv", "bias", "scale"), ((2, 3, 1, 1), (4,), ()))
DELTA = {
    "conv": np.array([1, -2, 0, 4, 127, -254], np.float32).reshape(2, 3, 1, 1),
    "bias": np.array([0, 0, 0, -1], np.float32),
    "scale": np.array(3, np.float32),
}
FORMS = {
    ("float32", "global"): ({"conv": "float32", "bias": "float32", "scale": "float32"}, 1),
    ("bfloat16", "tensor"): ({"conv": "bfloat16", "bias": "bfloat16", "scale": "bfloat16"}, 3),
    ("int8", "row"): (
        {
            "conv": "int8",
            "bias": "int8",
            "scale": "int8",
            "scale/conv": "float32",
            "scale/bias": "float32",
            "scale/scale": "float32",
        },
        4,
    ),
}


def encoded(layout=LAYOUT, delta=DELTA, **options):
    codec = codec_by_name("condu", layout, options)
    return codec.encode(EMPTY, delta)


@pytest.mark.parametrize(("dtype", "rescaler"), FORMS)
def test_the_arrays_of_both_parts(dtype, rescaler):
    state = encoded(dtype=dtype, rescaler=rescaler)
    dtypes, groups = FORMS[dtype, rescaler]
    assert {name: str(array.dtype) for name, array in state.shared.items()} == dtypes
    assert {n: (str(a.dtype), a.shape) for n, a in state.parts[0].items()} == {
        "mask": ("uint8", (24,)),
        "rescaler": ("float32", (groups,)),
        "l1_norm": ("float64", (1,)),
        "covered_norm": ("float64", (1,)),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_the_arrays_with_exact_parameters(dtype):
    state = encoded(dtype=dtype, rescaler="row", exact="vectors")
    scales = {"scale/conv": "float32"} if dtype == "int8" else {}
    assert {n: str(a.dtype) for n, a in state.shared.items()} == {"conv": dtype, **scales}
    part = state.parts[0]
    assert {n: (str(a.dtype), a.shape) for n, a in part.items()} == {
        "mask": ("uint8", (8,)),
        "rescaler": ("float32", (2,)),
        "l1_norm": ("float64", (1,)),
        "covered_norm": ("float64", (1,)),
        "exact/bias": ("float32", (4,)),
        "exact/scale": ("float32", ()),
    }
    assert part["exact/bias"].tolist() == [0, 0, 0, -1]
    assert part["exact/scale"] == 3
    assert part["mask"].tolist() == [0b111011, *[0] * 7]
    assert part["l1_norm"][0] == pytest.approx(388, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_the_bits_of_a_trimmed_mask(dtype):
    """Of [1, -2, 0] and [4, 127, -254] one each, of a vector one half, of a scalar nothing."""
    mask = encoded(dtype=dtype, rescaler="row", trim="0.5").parts[0]["mask"]
    assert mask.tolist() == [0b110011, *[0] * 7, 0b1000, *[0] * 7, 1, *[0] * 7]


def test_the_bits_of_a_mask():
    mask = encoded().parts[0]["mask"]
    assert mask.tolist() == [0b111011, *[0] * 7, 0b1000, *[0] * 7, 1, *[0] * 7]


def test_the_words_of_a_mask_that_is_mostly_zero():
    layout = ParameterLayout(("table",), ((64, 64),))
    values = np.zeros((64, 64), np.float32)
    values[9, 3] = values[63, 63] = 1
    part = encoded(layout, {"table": values}).parts[0]
    assert "mask" not in part
    assert part["mask_words"].dtype == np.dtype("<u8")
    assert part["mask_words"].tolist() == [1 << 3, 1 << 63]
    assert part["mask_index"].tolist() == [0, 2, 0, 0, 0, 0, 0, 128]


def test_the_steps_of_int8():
    shared = encoded(dtype="int8").shared
    assert shared["scale/conv"].tolist() == [np.float32(2) / np.float32(127), 2.0]
    assert shared["conv"].reshape(2, 3).tolist() == [[64, -127, 0], [2, 64, -127]]
    assert shared["bias"].tolist() == [0, 0, 0, -127]
    assert shared["scale/scale"].tolist() == [np.float32(3) / np.float32(127)]


def test_a_part_of_the_first_format_is_read():
    codec = ConduCodec(LAYOUT, {"rescaler": "global"})
    state = codec.encode(EMPTY, DELTA)
    first = {name: state.parts[0][name] for name in ("mask", "l1_norm")}
    first["rescaler"] = np.array([1.0])  # float64, and no covered_norm
    decoded = dict(codec.decode(state.shared, first))
    assert all(np.array_equal(decoded[name], DELTA[name]) for name in DELTA)
    old = EncodedState(state.shared, [first])
    assert codec.describe(old) == codec.describe(state)
    assert len(codec.encode(old, DELTA).parts) == 2


PATCH_ARRAYS = {
    "version": "int64",
    "pairs": "int64",
    "sparse": "uint8",
    "everywhere": "uint8",
    "changed": "uint8",
    "part/0/mask": "uint8",
    "part/0/rescaler": "uint8",
    "part/0/l1_norm": "float64",
    "part/0/covered_norm": "float64",
    "symbols/fresh": "uint8",
    "symbols/rest": "uint8",
    "values": "uint8",
}


@pytest.mark.parametrize(("dtype", "rescaler"), FORMS)
def test_the_arrays_of_a_reverse_patch(dtype, rescaler):
    codec = codec_by_name("condu", LAYOUT, {"dtype": dtype, "rescaler": rescaler})
    older = codec.encode(EMPTY, DELTA)
    patch = codec.difference(codec.encode(older, DELTA), older, [0])
    scales = {"scales": "uint8"} if dtype == "int8" else {}
    assert {name: str(array.dtype) for name, array in patch.items()} == PATCH_ARRAYS | scales
    assert patch["version"].tolist() == [1]


def test_a_reverse_patch_holds_exact_arrays_only_of_experts_without_a_pair():
    codec = codec_by_name("condu", LAYOUT, {"exact": "vectors"})
    older = codec.encode(EMPTY, DELTA)
    newer = codec.encode(older, DELTA)
    assert set(codec.difference(newer, older, [0])) == set(PATCH_ARRAYS)
    patch = codec.difference(newer, older, [None])
    own = {"part/0/exact/bias": "uint8", "part/0/exact/scale": "uint8"}
    assert {name: str(array.dtype) for name, array in patch.items()} == PATCH_ARRAYS | own
    content = (0, 0, 0x40, 0x40)  # the byte planes of 3.0
    assert patch["part/0/exact/scale"].tobytes() == compress(np.array(content, np.uint8)).tobytes()


def test_a_reverse_patch_of_today_is_read_tomorrow():
    layout = ParameterLayout(("w",), ((5,),))
    codec = codec_by_name("condu", layout, {"rescaler": "global"})
    older = codec.encode(EMPTY, {"w": np.array([1, 2, -3, -4, 0], np.float32)})
    newer = codec.encode(older, {"w": np.array([0, -9, 0, -9, 0], np.float32)})
    patch = {
        "version": np.array([1]),
        "pairs": np.array([0]),
        "sparse": np.array([0], np.uint8),
        "everywhere": np.array([0], np.uint8),
        "changed": stream(1),
        "part/0/mask": stream(1),
        "part/0/rescaler": stream(0, 0, 0x80, 0x3F),
        "part/0/l1_norm": np.array([10.0]),
        "part/0/covered_norm": np.array([10.0]),
        "symbols/fresh": stream(0b11_11),
        "symbols/rest": stream(0),
        "values": stream(0, 0, 0, 0, 0, 0x80, 0x40, 0x40),
    }
    found = codec.restore(newer, patch)
    assert found.shared["w"].tolist() == older.shared["w"].tolist() == [1, 2, -3, -4, 0]
    assert set(found.parts[0]) == set(older.parts[0])
    for name, array in older.parts[0].items():
        assert np.array_equal(found.parts[0][name], array)


def stream(*content):
    """Size, length of the only piece, and the piece: a block of deflate that was not compressed."""
    size = len(content)
    block = bytes([1, size, 0, 255 - size, 255, *content])
    header = np.array([size], "<u8").tobytes() + np.array([len(block)], "<u4").tobytes()
    return np.frombuffer(header + block, np.uint8)
