"""The parameter order, and masks as bits in that order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import layouts

from condu_cli.core import masks
from condu_cli.core.layout import InvalidDeltaError, InvalidStateError, ParameterLayout

LAYOUT = ParameterLayout(("a", "b", "c"), ((5, 13), (), (64,)))


def random_masks(layout, seed):
    generator = np.random.default_rng(seed)
    return {
        name: np.asarray(generator.random(shape) < 0.5)
        for name, shape in zip(layout.names, layout.shapes, strict=True)
    }


def test_every_tensor_starts_at_a_multiple_of_64_bits():
    assert LAYOUT.sizes == (65, 1, 64)
    assert LAYOUT.offsets == (0, 65, 66)
    assert LAYOUT.count == 130
    assert LAYOUT.mask_offsets == (0, 128, 192)
    assert LAYOUT.mask_bytes == 32


def test_a_layout_can_be_read_off_tensors():
    tensors = {name: np.zeros(s) for name, s in zip(LAYOUT.names, LAYOUT.shapes, strict=True)}
    assert ParameterLayout.of(tensors) == LAYOUT


@pytest.mark.parametrize(
    ("names", "shapes", "reason"),
    [
        ((), (), "at least one"),
        (("a",), (), "1 names but 0 shapes"),
        (("a", "a"), ((1,), (2,)), "more than once: a"),
        (("a",), ((-1,),), "negative"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(names, shapes, reason):
    with pytest.raises(ValueError, match=reason):
        ParameterLayout(names, shapes)


@given(layouts, st.sampled_from([64, 128, 1024]))
def test_blocks_cover_every_element_once_and_never_cross_a_tensor(layout, size):
    covered = {tensor: [] for tensor in range(len(layout.names))}
    for block in layout.blocks(size):
        assert 0 < block.stop - block.start <= size
        covered[block.tensor].extend(range(block.start, block.stop))
        assert block.mask.start * 8 == layout.mask_offsets[block.tensor] + block.start
        assert block.mask.stop - block.mask.start == (block.stop - block.start + 7) // 8
    assert [covered[i] for i in covered] == [list(range(n)) for n in layout.sizes]


def test_check_accepts_a_delta_and_names_the_first_fault():
    delta = {n: np.zeros(s, np.float32) for n, s in zip(LAYOUT.names, LAYOUT.shapes, strict=True)}
    LAYOUT.check(delta)
    with pytest.raises(InvalidDeltaError, match="'b' is missing"):
        LAYOUT.check({"a": delta["a"]})
    with pytest.raises(InvalidDeltaError, match="'c' has shape") as caught:
        LAYOUT.check({**delta, "c": delta["a"]})
    assert caught.value.parameter == "c"


@settings(max_examples=50)
@given(layouts, st.integers(0, 2**32 - 1))
def test_masks_survive_packing_and_each_tensor_reads_alone(layout, seed):
    wanted = random_masks(layout, seed)
    packed = masks.pack(layout, wanted)
    masks.check_mask(packed, layout)
    for name, mask in masks.unpack(layout, packed):
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, wanted[name])
        assert np.array_equal(masks.tensor_mask(packed, layout, name), wanted[name])
    ones = sum(int(mask.sum()) for mask in wanted.values())
    assert masks.count(packed) == ones
    assert masks.density(packed, layout) == (ones / layout.count if layout.count else 0.0)


def test_the_first_element_is_the_lowest_bit():
    layout = ParameterLayout(("w",), ((10,),))
    mask = np.zeros(10, dtype=bool)
    mask[[0, 9]] = True
    assert masks.pack(layout, {"w": mask}).tolist() == [1, 2, 0, 0, 0, 0, 0, 0]


def test_overlap_counts_what_two_masks_share():
    one, other = random_masks(LAYOUT, 1), random_masks(LAYOUT, 2)
    found = masks.overlap(masks.pack(LAYOUT, one), masks.pack(LAYOUT, other))
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


def test_packing_refuses_what_is_not_a_mask():
    good = random_masks(LAYOUT, 1)
    with pytest.raises(InvalidStateError, match="'b' is missing"):
        masks.pack(LAYOUT, {"a": good["a"]})
    with pytest.raises(InvalidStateError, match="'a' is uint8"):
        masks.pack(LAYOUT, {**good, "a": good["a"].astype(np.uint8)})
