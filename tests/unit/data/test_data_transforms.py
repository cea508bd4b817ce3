"""From pictures to tensors."""

import numpy as np
import pytest
import torch
from PIL import Image

from condu_cli.data.transforms import evaluation_transform, training_transform

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
HALF = (0.5, 0.5, 0.5)


def halves(width: int, height: int) -> Image.Image:
    """Left half black, right half white."""
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[:, width // 2 :] = 255
    return Image.fromarray(values)


@pytest.mark.parametrize("size", [(8, 8), (100, 40), (40, 100), (5, 31)])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_any_picture_becomes_a_square_float_tensor(size, mode):
    tensor = evaluation_transform(32, HALF, HALF, resize_mode=mode)(Image.new("RGB", size))
    assert tensor.shape == (3, 32, 32)
    assert tensor.dtype == torch.float32


def test_values_are_scaled_to_one_and_then_normalised():
    transform = evaluation_transform(4, (0.5, 0.0, 1.0), (0.5, 1.0, 0.25))
    white = transform(Image.new("RGB", (4, 4), "white"))
    black = transform(Image.new("RGB", (4, 4), "black"))
    assert white[:, 0, 0].tolist() == [1.0, 1.0, 0.0]
    assert black[:, 0, 0].tolist() == [-1.0, 0.0, -4.0]


def test_shortest_cuts_the_middle_out():
    tensor = evaluation_transform(8, ZERO, ONE)(halves(32, 8))
    assert tensor[0, 0].tolist() == [0.0] * 4 + [1.0] * 4


def test_shortest_loses_the_ends_and_squash_keeps_them():
    picture = Image.new("RGB", (32, 8), "white")
    picture.paste("black", (0, 0, 8, 8))  # the left quarter, outside the centre crop
    cut = evaluation_transform(8, ZERO, ONE, "bilinear", "shortest")(picture)
    squashed = evaluation_transform(8, ZERO, ONE, "bilinear", "squash")(picture)
    assert cut.min() == 1.0
    assert squashed[0, 0, 0] == 0.0


def test_evaluation_is_the_same_every_time():
    transform, picture = evaluation_transform(16, HALF, HALF), halves(20, 20)
    assert torch.equal(transform(picture), transform(picture))


def test_training_crops_at_random_from_torchs_generator():
    transform = training_transform(16, ZERO, ONE)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first, second = transform(picture), transform(picture)
        torch.manual_seed(1)
        again = transform(picture)
    assert first.shape == (3, 16, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_training_never_mirrors():
    transform = training_transform(16, ZERO, ONE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        crops = [transform(halves(64, 64)) for _ in range(20)]
    assert all(crop[0, 8, 0] < 0.1 and crop[0, 8, -1] > 0.9 for crop in crops)
