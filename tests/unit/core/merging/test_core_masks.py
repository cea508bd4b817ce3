"""Masks as packed bits, in parameter order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import layouts, packed_mask

from condu_cli.core.arrays.layout import InvalidStateError, ParameterLayout
from condu_cli.core.merging import masks

LAYOUT = ParameterLayout(("a", "b", "c"), ((5, 13), (), (64,)))


def random_masks(layout, seed):
    generator = np.random.default_rng(seed)
    return {
        name: np.asarray(generator.random(shape) < 0.5)
        for name, shape in zip(layout.names, layout.shapes, strict=True)
    }


@given(layouts, st.integers(0, 2**32 - 1))
def test_masks_survive_packing_and_each_tensor_reads_alone(layout, seed):
    wanted = random_masks(layout, seed)
    packed = packed_mask(layout, wanted)
    masks.check_mask(packed, layout)
    for name in layout.names:
        mask = masks.tensor_mask(packed, layout, name)
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, wanted[name])
    ones = sum(int(mask.sum()) for mask in wanted.values())
    assert masks.count(packed) == ones


def test_the_first_element_is_the_lowest_bit():
    layout = ParameterLayout(("w",), ((10,),))
    mask = np.zeros(10, dtype=bool)
    mask[[0, 9]] = True
    assert packed_mask(layout, {"w": mask}).tolist() == [1, 2, 0, 0, 0, 0, 0, 0]


def test_overlap_counts_what_two_masks_share():
    one, other = random_masks(LAYOUT, 1), random_masks(LAYOUT, 2)
    found = masks.overlap(packed_mask(LAYOUT, one), packed_mask(LAYOUT, other))
    assert found.both == sum(int((one[n] & other[n]).sum()) for n in LAYOUT.names)
    assert found.either == sum(int((one[n] | other[n]).sum()) for n in LAYOUT.names)
    assert found.jaccard == found.both / found.either


def test_two_empty_masks_are_equal():
    empty = np.zeros(LAYOUT.mask_bytes, dtype=np.uint8)
    assert masks.overlap(empty, empty).jaccard == 1.0
    with pytest.raises(ValueError, match="cannot be compared"):
        masks.overlap(empty, empty[:8])


@pytest.mark.parametrize("bit", [65, 127, 129, 191])
def test_a_set_padding_bit_is_refused(bit):
    packed = np.zeros(LAYOUT.mask_bytes, dtype=np.uint8)
    packed[bit // 8] = 1 << bit % 8
    with pytest.raises(InvalidStateError, match="padding bits"):
        masks.check_mask(packed, LAYOUT)


@pytest.mark.parametrize(
    "packed", [np.zeros(31, np.uint8), np.zeros(32, np.int8), np.zeros((2, 16), np.uint8)]
)
def test_a_mask_of_another_form_is_refused(packed):
    with pytest.raises(InvalidStateError) as caught:
        masks.check_mask(packed, LAYOUT, "tasks[3].mask")
    assert caught.value.tensor == "tasks[3].mask"


@given(st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_bits_survive_packing(count, seed):
    bools = np.random.default_rng(seed).random(count) < 0.5
    packed = masks.pack_bits(bools)
    assert packed.dtype == np.uint8
    assert packed.shape == ((count + 7) // 8,)
    assert packed.tolist() == [
        sum(int(bit) << k for k, bit in enumerate(bools[i : i + 8])) for i in range(0, count, 8)
    ]
    assert np.array_equal(masks.unpack_bits(packed, count).view(bool), bools)


def test_a_mask_is_found_by_a_known_name_only():
    packed = np.zeros(LAYOUT.mask_bytes, dtype=np.uint8)
    assert masks.tensor_mask(packed, LAYOUT, "b").shape == ()
    with pytest.raises(KeyError):
        masks.tensor_mask(packed, LAYOUT, "z")


def test_a_tensors_mask_can_be_read_from_a_read_only_mask():
    packed = packed_mask(LAYOUT, random_masks(LAYOUT, 1))
    packed.flags.writeable = False
    for name, wanted in random_masks(LAYOUT, 1).items():
        assert np.array_equal(masks.tensor_mask(packed, LAYOUT, name), wanted)
    assert masks.count(packed) == sum(int(m.sum()) for m in random_masks(LAYOUT, 1).values())
