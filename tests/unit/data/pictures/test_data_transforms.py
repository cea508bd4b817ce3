"""From pictures to tensors."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from condu_cli.data.pictures.transforms import evaluation_transform, seeded_training_transform
from condu_cli.preprocessing import Preparation

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
HALF = (0.5, 0.5, 0.5)


def halves(width: int, height: int) -> Image.Image:
    """Return a picture: left half black, right half white."""
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[:, width // 2 :] = 255
    return Image.fromarray(values)


@pytest.mark.parametrize("size", [(8, 8), (100, 40), (40, 100), (5, 31)])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_any_picture_becomes_a_square_float_tensor(size, mode):
    tensor = evaluation_transform(32, Preparation(HALF, HALF, resize_mode=mode))(
        Image.new("RGB", size)
    )
    assert tensor.shape == (3, 32, 32)
    assert tensor.dtype == torch.float32


def test_values_are_scaled_to_one_and_then_normalised():
    transform = evaluation_transform(4, Preparation((0.5, 0.0, 1.0), (0.5, 1.0, 0.25)))
    white = transform(Image.new("RGB", (4, 4), "white"))
    black = transform(Image.new("RGB", (4, 4), "black"))
    assert white[:, 0, 0].tolist() == [1.0, 1.0, 0.0]
    assert black[:, 0, 0].tolist() == [-1.0, 0.0, -4.0]


def test_shortest_cuts_the_middle_out():
    tensor = evaluation_transform(8, Preparation(ZERO, ONE))(halves(32, 8))
    assert tensor[0, 0].tolist() == [0.0] * 4 + [1.0] * 4


def test_shortest_loses_the_ends_and_squash_keeps_them():
    picture = Image.new("RGB", (32, 8), "white")
    picture.paste("black", (0, 0, 8, 8))  # the left quarter, outside the centre crop
    cut = evaluation_transform(8, Preparation(ZERO, ONE, "bilinear", "shortest"))(picture)
    squashed = evaluation_transform(8, Preparation(ZERO, ONE, "bilinear", "squash"))(picture)
    assert cut.min() == 1.0
    assert squashed[0, 0, 0] == 0.0


def test_evaluation_is_the_same_every_time():
    transform, picture = evaluation_transform(16, Preparation(HALF, HALF)), halves(20, 20)
    assert torch.equal(transform(picture), transform(picture))


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_evaluation_is_torchvisions_pipeline_to_the_last_bit(mode):
    noise = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    resize = transforms.Resize(32 if mode == "shortest" else (32, 32), InterpolationMode.BICUBIC)
    theirs = transforms.Compose(
        [
            resize,
            transforms.CenterCrop(32),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float32),
            transforms.Normalize(mean, std),
        ]
    )
    picture = Image.fromarray(noise)
    mine = evaluation_transform(32, Preparation(mean, std, resize_mode=mode))(picture)
    assert torch.equal(mine, theirs(picture))
    assert mine.is_contiguous()


def test_a_seeded_crop_depends_on_its_seed_alone():
    transform = seeded_training_transform(16, Preparation(ZERO, ONE))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    first = transform(picture, 1)
    before = torch.get_rng_state()
    assert not torch.equal(transform(picture, 2), first)
    assert torch.equal(transform(picture, 1), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert (first.shape, first.dtype) == ((3, 16, 16), torch.float32)


def test_a_seeded_crop_never_mirrors():
    transform = seeded_training_transform(16, Preparation(ZERO, ONE))
    crops = [transform(halves(64, 64), seed) for seed in range(20)]
    assert all(crop[0, 8, 0] < 0.1 and crop[0, 8, -1] > 0.9 for crop in crops)
