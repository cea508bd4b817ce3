"""Segments and chunks: every element is in exactly one, and bits survive loading and storing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import flat_mask, layouts, named, packed_mask, usual

from condu_cli.core.arrays.layout import ParameterLayout
from condu_cli.core.arrays.segments import BLOCK_SIZE, SEGMENT, Segmentation
from condu_cli.core.codecs.condu.stored_masks import decode_mask
from condu_cli.core.merging import masks

LONG = ParameterLayout(
    ("long", "nine", "wide", "none", "scalar", "cube"),
    ((10_000,), (150, 9), (3, 5000), (0, 4), (), (40, 3, 32)),
)
some_layouts = st.one_of(layouts, st.just(LONG))
block_sizes = st.sampled_from([64, 128, 192, 1024, BLOCK_SIZE])


def all_chunks(layout, by_row, block_size):
    return list(Segmentation(layout, by_row=by_row).chunks(block_size))


def random_mask(layout, seed):
    flags = np.random.default_rng(seed).random(layout.count) < 0.5
    return packed_mask(layout, named(layout, flags))


@given(some_layouts, st.booleans(), block_sizes)
def test_every_element_of_every_tensor_is_in_exactly_one_chunk(layout, by_row, block_size):
    covered = {tensor: [] for tensor in range(len(layout.names))}
    for chunk in all_chunks(layout, by_row, block_size):
        assert 0 < chunk.size == chunk.stop - chunk.start
        covered[chunk.tensor].extend(range(chunk.start, chunk.stop))
    assert [covered[tensor] for tensor in covered] == [list(range(n)) for n in layout.sizes]


@given(some_layouts, st.booleans(), block_sizes)
def test_chunks_are_whole_segments_in_the_order_of_the_layout(layout, by_row, block_size):
    expected = 0, 0  # tensor and segment that come next
    for chunk in all_chunks(layout, by_row, block_size):
        assert (chunk.tensor, chunk.first) >= expected
        assert chunk.first == (expected[1] if chunk.tensor == expected[0] else 0)
        assert chunk.start == chunk.first * chunk.length
        assert chunk.stop == min(
            chunk.start + chunk.segments * chunk.length, layout.sizes[chunk.tensor]
        )
        expected = chunk.tensor, chunk.first + chunk.segments


@given(some_layouts, block_sizes)
def test_segments_are_rows_or_runs_of_a_fixed_length(layout, block_size):
    for chunk in all_chunks(layout, True, block_size):
        assert chunk.length == layout.row_sizes[chunk.tensor]
        assert chunk.size == chunk.segments * chunk.length
        assert chunk.first + chunk.segments <= layout.row_counts[chunk.tensor]
    for chunk in all_chunks(layout, False, block_size):
        size = layout.sizes[chunk.tensor]
        assert chunk.length == min(SEGMENT, -(-size // 64) * 64)


@given(some_layouts, st.booleans())
def test_segments_do_not_depend_on_the_block_size(layout, by_row):
    def segments(block_size):
        return [
            (chunk.tensor, chunk.first + number, chunk.length)
            for chunk in all_chunks(layout, by_row, block_size)
            for number in range(chunk.segments)
        ]

    assert segments(64) == segments(192) == segments(BLOCK_SIZE)


@given(some_layouts, st.booleans(), block_sizes)
def test_chunks_never_share_a_word_of_the_mask(layout, by_row, block_size):
    words = []
    for chunk in all_chunks(layout, by_row, block_size):
        first_bit = layout.mask_offsets[chunk.tensor] + chunk.start
        assert first_bit % 64 == 0
        assert chunk.mask == slice(first_bit // 8, first_bit // 8 + (chunk.size + 7) // 8)
        words.extend(range(first_bit // 64, first_bit // 64 + (chunk.size + 63) // 64))
    assert len(words) == len(set(words))


@given(some_layouts, st.booleans(), block_sizes)
def test_chunks_are_about_as_large_as_a_block(layout, by_row, block_size):
    for chunk in all_chunks(layout, by_row, block_size):
        assert chunk.padded % 64 == 0
        assert chunk.length <= chunk.padded < chunk.length + 64
        assert chunk.room == chunk.segments * chunk.padded
        # At most 64 rows are needed for a whole number of mask words.
        assert chunk.room <= max(block_size, 64 * chunk.padded)
        if chunk.length % 64 == 0:
            assert chunk.room <= max(block_size, chunk.padded)


@given(some_layouts, st.booleans(), block_sizes, st.integers(0, 2**32 - 1))
def test_values_are_loaded_in_order_with_zeros_for_padding(layout, by_row, block_size, seed):
    values = named(layout, usual(seed, layout.count))
    for chunk in all_chunks(layout, by_row, block_size):
        wanted = values[layout.names[chunk.tensor]].reshape(-1)[chunk.start : chunk.stop]
        working = np.full((chunk.segments, chunk.padded), np.nan, dtype=np.float32)
        chunk.load(values[layout.names[chunk.tensor]].reshape(-1), working)
        assert np.array_equal(chunk.values(working).reshape(-1), wanted)
        assert np.shares_memory(chunk.values(working), working)
        for number, segment in enumerate(working):
            part = wanted[number * chunk.length : (number + 1) * chunk.length]
            assert np.array_equal(segment[: part.size], part)
            assert not segment[part.size :].any()
        working[...] = 1
        chunk.clear_padding(working)
        assert working.sum() == chunk.size


@given(some_layouts, st.booleans(), block_sizes, st.integers(0, 2**32 - 1))
def test_bits_survive_loading_and_storing(layout, by_row, block_size, seed):
    mask = random_mask(layout, seed)
    found = np.zeros_like(mask)
    for chunk in all_chunks(layout, by_row, block_size):
        words = np.full((chunk.segments, chunk.padded // 64), ~np.uint64(0))
        chunk.load_bits(mask, words)
        chunk.store_bits(words, found)
    assert np.array_equal(found, mask)


@given(some_layouts, st.booleans(), block_sizes, st.integers(0, 2**32 - 1))
def test_a_loaded_bit_is_where_its_element_is(layout, by_row, block_size, seed):
    mask = random_mask(layout, seed)
    values = named(layout, flat_mask(layout, mask).astype(np.float32))
    for chunk in all_chunks(layout, by_row, block_size):
        words = np.full((chunk.segments, chunk.padded // 64), ~np.uint64(0))
        working = np.empty((chunk.segments, chunk.padded), dtype=np.float32)
        chunk.load_bits(mask, words)
        chunk.load(values[layout.names[chunk.tensor]].reshape(-1), working)
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
        assert np.array_equal(bits, working)  # and padding bits are 0


@given(some_layouts, st.booleans(), block_sizes)
def test_padding_bits_are_never_stored(layout, by_row, block_size):
    found = np.zeros(layout.mask_bytes, dtype=np.uint8)
    for chunk in all_chunks(layout, by_row, block_size):
        working = np.ones((chunk.segments, chunk.padded), dtype=bool)
        chunk.clear_padding(working)
        words = np.packbits(working, axis=1, bitorder="little").view(np.uint64)
        chunk.store_bits(words, found)
    masks.check_mask(found, layout)
    assert masks.count(found) == layout.count


@pytest.mark.parametrize("by_row", [False, True])
def test_bits_of_a_sparse_mask_are_loaded_alike(by_row):
    flags = np.zeros(LONG.count, dtype=bool)
    flags[[0, 9999, 10_000, 11_000, LONG.count - 1]] = True
    dense = packed_mask(LONG, named(LONG, flags))
    words = dense.view("<u8")
    index = np.packbits(words != 0, bitorder="little")
    sparse = decode_mask({"mask_words": words[words != 0], "mask_index": index}, LONG)
    for chunk in all_chunks(LONG, by_row, 64):
        one, other = (
            np.full((chunk.segments, chunk.padded // 64), ~np.uint64(0)) for _ in range(2)
        )
        chunk.load_bits(dense, one)
        chunk.load_bits(sparse, other)
        assert np.array_equal(one, other)


@pytest.mark.parametrize("block_size", [0, -64, 1, 63, 100, SEGMENT + 1])
def test_a_block_size_that_is_not_a_positive_multiple_of_64_is_refused(block_size):
    with pytest.raises(ValueError, match="positive multiple of 64"):
        all_chunks(LONG, False, block_size)


def test_tensors_without_elements_have_no_chunks():
    layout = ParameterLayout(("a", "b", "c"), ((0, 4), (4, 0), (0,)))
    for by_row in (False, True):
        assert all_chunks(layout, by_row, 64) == []
