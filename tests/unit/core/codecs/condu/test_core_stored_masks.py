"""The two stored forms of a mask: which one is chosen, and both read like the dense mask."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import layouts, named, packed_mask

from condu_cli.core.arrays.layout import InvalidStateError, ParameterLayout
from condu_cli.core.codecs.condu import stored_masks
from condu_cli.core.codecs.condu.stored_masks import (
    MASK_ARRAYS,
    SparseMask,
    decode_mask,
    encode_mask,
    encode_mask_as,
)
from condu_cli.core.merging import masks

# 9 words of which the last two hold padding: a (65 bits), c (7 words, the last with 63 bits).
LAYOUT = ParameterLayout(("a", "b", "c"), ((5, 13), (0, 4), (447,)))
# More words than one group of ranks and than one index byte fills, in several tensors.
LARGE = ParameterLayout(("embedding", "bias", "weight"), ((900, 128), (77,), (300, 65)))
KINDS = ["zero", "ones", "half", "single", "rows", "scattered"]


def random_mask(layout, kind, seed):
    """A packed mask with padding bits 0, of one of KINDS."""
    generator = np.random.default_rng(seed)
    flags = generator.random(layout.count) < {"ones": 1.1, "half": 0.5}.get(kind, 0.02)
    if kind == "rows":  # long runs of nothing between full ones
        flags = np.repeat(generator.random(layout.count // 256 + 1) < 0.3, 256)[: layout.count]
    if kind in ("zero", "single"):
        flags = np.zeros(layout.count, dtype=bool)
    if kind == "single" and layout.count:
        flags[generator.integers(layout.count)] = True
    return packed_mask(layout, named(layout, flags))


def sparse_form(packed):
    """The sparse form of a mask, even if the raw one would be smaller; word by word."""
    words = [packed[i : i + 8].tobytes() for i in range(0, packed.size, 8)]
    flags = np.array([any(word) for word in words], dtype=bool)
    return {
        "mask_words": np.frombuffer(b"".join(w for w in words if any(w)), dtype="<u8"),
        "mask_index": np.packbits(flags, bitorder="little"),
    }


def stored_bytes(arrays):
    return sum(array.nbytes for array in arrays.values())


packed_masks = st.builds(
    lambda layout, kind, seed: (layout, random_mask(layout, kind, seed)),
    st.one_of(layouts, st.sampled_from([LAYOUT, LARGE])),
    st.sampled_from(KINDS),
    st.integers(0, 2**32 - 1),
)


@given(packed_masks)
def test_a_mask_survives_encoding_in_the_smaller_form(case):
    layout, packed = case
    stored = encode_mask(packed)
    sparse = sparse_form(packed)
    assert frozenset(stored) in MASK_ARRAYS
    assert stored_bytes(stored) == min(packed.nbytes, stored_bytes(sparse))
    if "mask" not in stored:
        assert stored_bytes(stored) < packed.nbytes
        for name, array in sparse.items():
            assert stored[name].dtype == array.dtype
            assert np.array_equal(stored[name], array)
    decoded = decode_mask(stored, layout)
    masks.check_mask(decoded, layout)
    assert np.array_equal(np.asarray(decoded), packed)


@given(packed_masks, st.data())
def test_every_slice_of_a_sparse_mask_is_the_dense_slice(case, data):
    layout, packed = case
    mask = decode_mask(sparse_form(packed), layout)
    bounds = st.one_of(st.none(), st.integers(-packed.size - 9, packed.size + 9))
    for _ in range(20):
        part = slice(data.draw(bounds), data.draw(bounds), data.draw(st.sampled_from([None, 1])))
        found = mask[part]
        assert found.dtype == np.uint8
        assert np.array_equal(found, packed[part])


@pytest.mark.parametrize("kind", KINDS)
def test_all_slices_of_a_small_sparse_mask_are_right(kind):
    packed = random_mask(LAYOUT, kind, 5)
    mask = decode_mask(sparse_form(packed), LAYOUT)
    for start in range(packed.size + 1):
        for stop in range(packed.size + 1):
            assert mask[start:stop].tobytes() == packed[start:stop].tobytes()


@given(packed_masks)
def test_a_sparse_mask_looks_like_the_array_that_it_represents(case):
    layout, packed = case
    mask = decode_mask(sparse_form(packed), layout)
    assert isinstance(mask, SparseMask)
    assert (mask.dtype, mask.shape, mask.size) == (packed.dtype, packed.shape, packed.size)
    assert mask.count() == masks.count(packed) == masks.count(mask)
    assert np.array_equal(mask.dense(), packed)
    assert np.asarray(mask, dtype=np.int64).dtype == np.int64
    for name in layout.names:
        found, wanted = (masks.tensor_mask(m, layout, name) for m in (mask, packed))
        assert np.array_equal(found, wanted), name


@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.sampled_from([64, 128, 1024]))
def test_masks_longer_than_the_encoders_block_are_encoded_alike(kind, seed, block_bytes):
    packed = random_mask(LARGE, kind, seed)
    whole = encode_mask(packed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_masks, "BLOCK_BYTES", block_bytes)
        blockwise = encode_mask(packed)
    assert list(blockwise) == list(whole)
    assert all(np.array_equal(blockwise[name], whole[name]) for name in whole)


def test_the_sparse_form_is_as_documented():
    packed = np.zeros(LAYOUT.mask_bytes, dtype=np.uint8)
    packed[[0, 7, 71]] = [1, 2, 4]
    stored = encode_mask(packed)
    assert stored["mask_words"].tolist() == [1 + (2 << 56), 4 << 56]
    assert stored["mask_index"].tolist() == [1, 1]
    assert stored["mask_words"].dtype == np.dtype("<u8")
    assert stored["mask_index"].dtype == np.uint8


@pytest.mark.parametrize(("used", "form"), [(62, "sparse"), (63, "raw"), (64, "raw")])
def test_raw_is_chosen_where_the_forms_are_equally_large(used, form):
    # 64 words: an index of 8 bytes costs as much as the one word that is left out.
    packed = np.zeros(64 * 8, dtype=np.uint8)
    packed[: used * 8] = 255
    assert ("mask" in encode_mask(packed)) == (form == "raw")


def test_a_layout_without_elements_has_an_empty_mask_in_both_forms():
    layout = ParameterLayout(("a", "b"), ((0, 4), (0,)))
    packed = np.zeros(0, dtype=np.uint8)
    assert list(encode_mask(packed)) == ["mask"]
    for stored in (encode_mask(packed), sparse_form(packed)):
        decoded = decode_mask(stored, layout)
        masks.check_mask(decoded, layout)
        assert decoded[:].shape == decoded.shape == (0,)
    assert decoded.count() == 0


def test_the_raw_form_is_passed_through_without_a_copy():
    packed = random_mask(LAYOUT, "ones", 0)
    packed.flags.writeable = False
    stored = encode_mask(packed)
    assert stored["mask"] is packed
    assert decode_mask(stored, LAYOUT) is packed


def test_memory_maps_can_be_read_in_both_forms(tmp_path):
    packed = random_mask(LARGE, "rows", 1)
    for form in ({"mask": packed}, sparse_form(packed)):
        for name, array in form.items():
            np.save(tmp_path / f"{name}.npy", array)
        stored = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in form}
        decoded = decode_mask(stored, LARGE)
        masks.check_mask(decoded, LARGE)
        assert np.array_equal(decoded[3:5000], packed[3:5000])


def test_a_slice_can_be_changed_without_changing_the_mask():
    packed = random_mask(LARGE, "rows", 2)
    mask = decode_mask(sparse_form(packed), LARGE)
    for part in (slice(None), slice(0, 64), slice(packed.size - 8, None)):
        mask[part][...] = 255
    assert np.array_equal(mask.dense(), packed)


def test_threads_may_read_at_the_same_time():
    packed = random_mask(LARGE, "scattered", 3)
    mask = decode_mask(sparse_form(packed), LARGE)
    starts = list(range(0, packed.size, 100)) * 5
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda start: mask[start : start + 100].tobytes(), starts))
    assert found == [packed[start : start + 100].tobytes() for start in starts]


def test_a_sparse_mask_is_read_by_plain_slices_only():
    mask = decode_mask(sparse_form(random_mask(LAYOUT, "half", 0)), LAYOUT)
    with pytest.raises(TypeError, match="by slices, not int"):
        mask[0]
    with pytest.raises(ValueError, match="step 1, not 2"):
        mask[::2]
    with pytest.raises(ValueError, match="without a copy"):
        mask.__array__(copy=False)


@pytest.mark.parametrize(
    "packed", [np.zeros(7, np.uint8), np.zeros(8, np.int8), np.zeros((2, 8), np.uint8)]
)
def test_an_invalid_packed_mask_is_not_encoded(packed):
    with pytest.raises(ValueError, match="a packed mask is uint8"):
        encode_mask(packed)


def test_arrays_that_are_not_the_masks_are_left_alone():
    packed = random_mask(LAYOUT, "half", 1)
    other = {"rescaler": np.ones(1), "l1_norm": np.ones(1)}
    assert decode_mask({"mask": packed, **other}, LAYOUT) is packed
    assert np.array_equal(decode_mask({**sparse_form(packed), **other}, LAYOUT), packed)


WORDS = np.array([1, 2, 3], dtype=np.uint64)
INDEX = np.array([0b10000001, 1], dtype=np.uint8)  # words 0, 7 and 8 of 9
RAW = np.zeros(LAYOUT.mask_bytes, dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrays", "name", "reason"),
    [
        ({}, "mask", "is missing"),
        ({"rescaler": np.ones(1)}, "mask", "is missing"),
        ({"mask_words": WORDS}, "mask_index", "is missing"),
        ({"mask_index": INDEX}, "mask_words", "is missing"),
        ({"mask": RAW, "mask_words": WORDS}, "mask_words", "beside 'mask'"),
        ({"mask": RAW, "mask_index": INDEX}, "mask_index", "beside 'mask'"),
        (
            {"mask": RAW, "mask_words": WORDS, "mask_index": INDEX},
            "mask_index",
            "beside 'mask'",
        ),
        ({"mask": RAW[1:]}, "mask", r"uint8 \(71,\), not uint8 \(72,\)"),
        ({"mask": RAW.view(np.int8)}, "mask", "int8"),
        ({"mask": RAW.reshape(2, 36)}, "mask", r"\(2, 36\)"),
        ({"mask_words": WORDS.view(np.int64), "mask_index": INDEX}, "mask_words", "int64"),
        ({"mask_words": WORDS.astype(">u8"), "mask_index": INDEX}, "mask_words", ">u8"),
        ({"mask_words": WORDS.reshape(3, 1), "mask_index": INDEX}, "mask_words", r"\(3, 1\)"),
        ({"mask_words": WORDS, "mask_index": INDEX.view(np.int8)}, "mask_index", "int8"),
        ({"mask_words": WORDS, "mask_index": INDEX[:1]}, "mask_index", r"\(1,\), not .*\(2,\)"),
        ({"mask_words": WORDS, "mask_index": INDEX.reshape(1, 2)}, "mask_index", r"\(1, 2\)"),
        (
            {"mask_words": WORDS, "mask_index": np.array([1, 3], dtype=np.uint8)},
            "mask_index",
            "beyond the mask's 9 words",
        ),
        (
            {"mask_words": WORDS[:2], "mask_index": INDEX},
            "mask_words",
            r"\(2,\), not uint64 \(3,\)",
        ),
        (
            {"mask_words": WORDS, "mask_index": np.array([1, 1], dtype=np.uint8)},
            "mask_words",
            r"\(3,\), not uint64 \(2,\)",
        ),
        (
            {"mask_words": WORDS - np.uint64(1), "mask_index": INDEX},
            "mask_words",
            "holds a word that is zero",
        ),
    ],
)
def test_a_stored_mask_of_another_form_is_refused_by_name(arrays, name, reason):
    with pytest.raises(InvalidStateError, match=reason) as caught:
        decode_mask(arrays, LAYOUT, "tasks[3].")
    assert caught.value.tensor == f"tasks[3].{name}"


@pytest.mark.parametrize("bit", [65, 127, 575])
def test_a_set_padding_bit_is_refused_in_both_forms(bit):
    packed = RAW.copy()
    packed[bit // 8] = 1 << bit % 8
    for stored in ({"mask": packed}, sparse_form(packed)):
        decoded = decode_mask(stored, LAYOUT)
        with pytest.raises(InvalidStateError, match="padding bits"):
            masks.check_mask(decoded, LAYOUT)


# Either form on demand


@given(packed_masks)
def test_either_form_can_be_asked_for_whatever_it_takes(case):
    layout, packed = case
    forms = [encode_mask_as(packed, sparse=sparse) for sparse in (False, True)]
    assert [frozenset(form) for form in forms] == list(MASK_ARRAYS)
    for form in forms:
        assert np.array_equal(decode_mask(form, layout), packed)
    smaller = encode_mask(packed)
    chosen = forms["mask" not in smaller]
    assert all(np.array_equal(smaller[name], chosen[name]) for name in smaller)
