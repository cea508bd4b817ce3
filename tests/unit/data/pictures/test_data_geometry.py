"""How pictures are cropped and scaled: torchvision's rounding, without torch."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from condu_cli.data.pictures.geometry import (
    CROP_RATIO,
    CROP_SCALE,
    LONGEST,
    CropGeometry,
    EvaluationGeometry,
    random_box,
    reduced,
)

SIDES = st.integers(1, 120)
SEEDS = st.integers(0, 2**63)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


@given(SIDES, SIDES, SIDES, st.sampled_from(["bicubic", "bilinear"]))
def test_evaluation_is_torchvisions_resize_and_centre_crop(width, height, size, interpolation):
    picture, mode = noise(width, height), InterpolationMode(interpolation)
    if max(width, height) <= LONGEST * min(width, height):
        steps = [transforms.Resize(size, mode), transforms.CenterCrop(size)]
        theirs = transforms.Compose(steps)(picture)
        assert same(EvaluationGeometry(size, interpolation)(picture), theirs)
    squashed = EvaluationGeometry(size, interpolation, "squash")(picture)
    assert same(squashed, transforms.Resize((size, size), mode)(picture))


@given(SIDES, SIDES, SIDES)
def test_a_picture_kept_at_the_evaluations_size_evaluates_the_same(width, height, size):
    picture, evaluation = noise(width, height), EvaluationGeometry(size)
    assert same(evaluation(reduced(picture, size)), evaluation(picture))


@given(SIDES, SIDES, SIDES, SEEDS)
def test_a_training_crop_is_torchvisions_for_the_same_box(width, height, size, seed):
    picture = noise(width, height)
    left, upper, right, lower = random_box((width, height), seed)
    theirs = transforms.functional.resized_crop(
        picture, upper, left, lower - upper, right - left, [size, size], InterpolationMode.BICUBIC
    )
    assert same(CropGeometry(size)(picture, seed), theirs)


@given(st.integers(1, 5000), st.integers(1, 5000), SEEDS)
def test_a_crop_is_within_the_picture_and_reproducible(width, height, seed):
    left, upper, right, lower = box = random_box((width, height), seed)
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    assert random_box((width, height), seed) == box


def test_crops_keep_the_recipes_share_and_ratio():
    for seed in range(200):
        left, upper, right, lower = random_box((400, 400), seed)
        width, height = right - left, lower - upper
        assert CROP_SCALE[0] - 0.01 < width * height / 400**2 <= CROP_SCALE[1]
        assert CROP_RATIO[0] - 0.01 < width / height < CROP_RATIO[1] + 0.01


def test_crops_are_spread_as_torchvisions_are():
    picture = Image.new("RGB", (300, 260))
    mine = np.array([random_box(picture.size, seed) for seed in range(2000)], dtype=float)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [
            transforms.RandomResizedCrop.get_params(picture, CROP_SCALE, CROP_RATIO)
            for _ in range(2000)
        ]
    theirs = np.array([(left, top, left + w, top + h) for top, left, h, w in drawn], dtype=float)
    assert mine.mean(axis=0) == pytest.approx(theirs.mean(axis=0), abs=1.5)
    assert mine.std(axis=0) == pytest.approx(theirs.std(axis=0), abs=1.5)


def test_a_very_long_picture_gives_its_middle():
    assert random_box((1000, 10), 0) == (493, 0, 506, 10)
    assert random_box((10, 1000), 0) == (0, 493, 10, 506)


def test_a_line_of_pixels_is_not_enlarged_to_gigabytes():
    assert EvaluationGeometry(32)(Image.new("RGB", (1, 90_000))).size == (32, 32)
    assert EvaluationGeometry(32)(Image.new("RGB", (90_000, 1))).size == (32, 32)


def test_a_process_that_decodes_imports_no_torch():
    code = (
        "import sys; from condu_cli.data.pictures import decoding;"
        "print({'torch', 'torchvision'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
