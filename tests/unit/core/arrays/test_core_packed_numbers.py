"""Packing: numbers, gathered bits and byte planes survive a round trip in any portions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.core.arrays import packed_numbers
from condu_cli.core.arrays.bits import pack_bits, unpack_bits
from condu_cli.core.arrays.packed_numbers import (
    Packer,
    Unpacker,
    from_planes,
    gathered,
    packed_size,
    planes_of,
    scattered,
)

seeds = st.integers(0, 2**32 - 1)
each_width = pytest.mark.parametrize("width", [1, 2])


def numbers_of(generator, size, width):
    return generator.integers(0, 2**width, size, dtype=np.uint8)


@each_width
@given(seed=seeds, sizes=st.lists(st.integers(0, 40), max_size=8), batch=st.sampled_from([8, 50]))
def test_numbers_can_be_read_in_other_portions(width, seed, sizes, batch):
    generator = np.random.default_rng(seed)
    parts = [numbers_of(generator, size, width) for size in sizes]
    packer = Packer(width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_numbers, "BATCH", batch)
        for part in parts:
            packer.add(part)
        packed = packer.finish()
    assert packed.dtype == np.uint8
    assert packed.size == packed_size(sum(sizes), width)
    unpacker = Unpacker(packed, width)
    found = [unpacker.take(size) for size in sizes[::-1]]
    everything = np.concatenate([np.zeros(0, np.uint8), *parts])
    assert np.array_equal(np.concatenate([np.zeros(0, np.uint8), *found]), everything)


def test_the_first_number_is_in_the_lowest_bits_and_unused_bits_are_0():
    for width, numbers, packed in ((1, [1, 0, 1], [0b101]), (2, [3, 0, 1, 2, 2], [0b10010011, 2])):
        packer = Packer(width)
        packer.add(np.array(numbers, np.uint8))
        assert packer.finish().tolist() == packed


@given(seed=seeds, size=st.integers(0, 50), block=st.sampled_from([1, 8, 1 << 15]))
def test_picked_bits_are_put_back_where_they_were(seed, size, block):
    generator = np.random.default_rng(seed)
    within, *masks = generator.integers(0, 256, (4, size), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_numbers, "BLOCK_BYTES", block)
        picked = gathered([(mask, None) for mask in masks], within)
        back = scattered(picked, within)
    inside = unpack_bits(within).astype(bool)
    for mask, bits, found in zip(masks, picked, back, strict=True):
        assert np.array_equal(bits, pack_bits(unpack_bits(mask)[inside]))
        assert np.array_equal(found, mask & within)
    (both,) = gathered([(masks[0], masks[1])], within)
    assert np.array_equal(both, gathered([(masks[0] ^ masks[1], None)], within)[0])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32, np.float64])
def test_byte_planes_are_the_lowest_bytes_first(dtype):
    numbers = np.arange(300, 307).astype(dtype)
    planes = planes_of(numbers)
    assert planes[:7].tolist() == [number.tobytes()[0] for number in numbers]
    found = from_planes(planes, np.dtype(dtype))
    assert found.dtype == dtype
    assert np.array_equal(found, numbers)
    assert from_planes(planes_of(numbers[:0]), np.dtype(dtype)).size == 0
