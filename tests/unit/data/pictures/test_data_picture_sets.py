"""Labelled pictures as batches: cached within a budget, checked before training."""

import numpy as np
import pytest
import torch
from PIL import Image
from stored_pictures import Logged

from condu_cli.cli.hints.making import hint_of
from condu_cli.data.labelled import Sample
from condu_cli.data.pictures import decoding, kept_pictures
from condu_cli.data.pictures.geometry import reduced
from condu_cli.data.pictures.picture_files import open_picture
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.scanning import ReadingRules
from condu_cli.data.pictures.transforms import evaluation_transform, seeded_training_transform
from condu_cli.data.sources.folders import read_folder
from condu_cli.errors import DataError
from condu_cli.preprocessing import Preparation

SIDE = 8
ONE_PICTURE = SIDE * SIDE * 3


@pytest.fixture
def files(tmp_path):
    """Return five pictures; the red channel of number i is i."""
    for index in range(5):
        Image.new("RGB", (SIDE, SIDE), (index, 0, 0)).save(tmp_path / f"{index}.png")
    return [tmp_path / f"{index}.png" for index in range(5)]


def red(image: Image.Image) -> int:
    return image.getpixel((0, 0))[0]


def red_tensor(image: Image.Image) -> torch.Tensor:
    return torch.full((3, 2, 2), float(red(image)))


def samples(files) -> list[Sample]:
    return [Sample(path, index % 2) for index, path in enumerate(files)]


# What is cached


def test_pictures_for_training_are_a_little_larger_than_the_crop(tmp_path):
    Image.new("RGB", (100, 200)).save(tmp_path / "a.png")
    kept = PictureSet.for_training([Sample(tmp_path / "a.png", 0)], image_size=40)
    kept.read()
    assert kept.kept_bytes == 46 * 92 * 3


def test_a_set_that_was_never_read_keeps_what_it_decodes_as_long_as_it_fits(
    noisy, tmp_path, monkeypatch
):
    monkeypatch.setattr(kept_pictures, "CACHE_BYTES", 25 * 30 * 10 * 3)
    store = Logged(tuple(s.picture for s in noisy), tmp_path / "log")
    pictures = PictureSet([Sample(p, 0) for p in store.pictures])
    for _ in range(2):
        pictures.batch(range(30), red_tensor)
    assert store.decodings()[0] == 1
    assert store.decodings()[29] == 2
    assert pictures.kept_bytes <= kept_pictures.CACHE_BYTES


# Batches


def test_a_batch_is_pictures_and_labels_in_the_order_asked_for(files):
    pixels, labels = PictureSet(samples(files)).batch([3, 0], red_tensor)
    assert pixels.shape == (2, 3, 2, 2)
    assert pixels[:, 0, 0, 0].tolist() == [3.0, 0.0]
    assert labels.tolist() == [1, 0]
    assert labels.dtype == torch.int64


# One pass over all pictures

EVALUATION = evaluation_transform(SIDE, Preparation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
CROPS = seeded_training_transform(6, Preparation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


@pytest.fixture
def noisy(tmp_path):
    """Return forty samples of two classes: noise, of many sizes."""
    rng = np.random.default_rng(0)
    for index in range(40):
        values = rng.integers(0, 256, (10 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"noise{index:02d}.png")
    return [Sample(tmp_path / f"noise{index:02d}.png", index % 2) for index in range(40)]


def reds(batches) -> list[list[int]]:
    return [[round(float(p[0, 0, 0]) * 255) for p in pixels] for _, pixels in batches]


def scanned(samples, **rules) -> PictureSet:
    pictures = PictureSet(samples, SIDE, rules=ReadingRules(**rules))
    pictures.read()
    return pictures


def spoil(*paths):
    for path in paths:
        path.write_text("text")


def test_a_scan_shows_every_picture_once_in_order_and_keeps_them(files, monkeypatch):
    decoded = []
    real = decoding.open_picture
    monkeypatch.setattr(decoding, "open_picture", lambda p: decoded.append(p.name) or real(p))
    pictures, done = PictureSet(samples(files)), []
    assert reds(pictures.scan(EVALUATION, 2, done.append)) == [[0, 1], [2, 3], [4]]
    assert done == [1, 2, 3, 4, 5]
    assert pictures.cached
    list(pictures.training_batches([([0, 1, 2, 3, 4], [0] * 5)], CROPS))
    pictures.batch([4], red_tensor)
    assert decoded == [f"{index}.png" for index in range(5)]


def test_a_scan_shows_pictures_whole_not_as_they_are_kept(noisy):
    pictures = PictureSet(noisy, 5)
    shown = torch.cat([pixels for _, pixels in pictures.scan(EVALUATION)])
    whole = torch.stack([EVALUATION(open_picture(s.picture)) for s in noisy])
    assert torch.equal(shown, whole)
    assert torch.equal(pictures.whole([3, 1], EVALUATION), whole[[3, 1]])
    assert pictures.batch([0], EVALUATION)[0].shape == (1, 3, SIDE, SIDE)


def test_pictures_kept_at_the_evaluations_size_evaluate_to_the_same_bits(noisy):
    pictures = PictureSet(noisy, SIDE)
    shown = torch.cat([pixels for _, pixels in pictures.scan(EVALUATION)])
    assert torch.equal(pictures.batch(range(40), EVALUATION)[0], shown)


def test_workers_scan_to_the_same_bits(noisy):
    found = []
    for workers in (0, 2):
        pictures = PictureSet(noisy, SIDE, rules=ReadingRules(workers=workers))
        shown = torch.cat([pixels for _, pixels in pictures.scan(EVALUATION, 7)])
        crops, _ = together(pictures.training_batches([(range(40), range(40))], CROPS))
        found.append((shown, crops))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_set_that_does_not_fit_is_not_kept_at_all(noisy, monkeypatch):
    monkeypatch.setattr(kept_pictures, "CACHE_BYTES", 20 * ONE_PICTURE)
    pictures = scanned(noisy)
    assert not pictures.cached
    assert len(pictures) == 40


def test_a_set_that_is_shown_only_once_need_not_be_kept(files):
    pictures = PictureSet(samples(files), rules=ReadingRules(keep=False))
    assert reds(pictures.scan(EVALUATION)) == [[0, 1, 2, 3, 4]]
    assert not pictures.cached


def test_a_scan_that_is_left_early_changes_nothing(files):
    spoil(files[0])
    pictures = PictureSet(samples(files))
    scan = pictures.scan(EVALUATION, 2)
    next(scan)
    scan.close()
    assert (len(pictures), pictures.unreadable, pictures.cached) == (5, [], False)


# Unreadable pictures in a scan


def test_unreadable_pictures_are_left_out_and_named(files):
    spoil(files[1])
    pictures = PictureSet(samples(files))
    shown = list(pictures.scan(EVALUATION, 3))
    assert reds(shown) == [[0, 2, 3], [4]]
    assert [s.picture.name for part, _ in shown for s in part] == [
        "0.png",
        "2.png",
        "3.png",
        "4.png",
    ]
    assert [broken.name for broken in pictures.unreadable] == [str(files[1])]
    assert pictures.labels.tolist() == [0, 0, 1, 0]
    assert pictures.batch([1], red_tensor)[0][0, 0, 0, 0] == 2


@pytest.mark.parametrize(
    ("count", "given", "allowed"),
    [
        (5, None, 2),
        (20, None, 9),
        (100, None, 10),
        (1000, None, 50),
        (100, 0, 0),
        (100, 3, 3),
        (100, 0.2, 20),
    ],
)
def test_how_many_may_be_left_out(count, given, allowed):
    assert ReadingRules(max_unreadable=given).allowed_unreadable(count) == allowed


def test_too_many_unreadable_pictures_are_all_counted_and_three_named(files):
    spoil(*files[:4])
    with pytest.raises(DataError, match="4 of 5 pictures cannot be read") as caught:
        scanned(samples(files))
    assert "2.png" in caught.value.message
    assert "3.png" not in caught.value.message
    assert hint_of(caught.value).endswith("--max-unreadable 4")


def test_once_there_are_too_many_no_more_are_shown(files):
    spoil(files[1])
    pictures = PictureSet(samples(files), rules=ReadingRules(max_unreadable=0))
    shown = []
    with pytest.raises(DataError, match="1 of 5 pictures"):
        shown.extend(pictures.scan(EVALUATION, 1))
    assert reds(shown) == [[0]]


def test_a_class_that_loses_all_its_pictures_is_an_error_that_names_it(files):
    spoil(files[1], files[3])
    with pytest.raises(DataError, match="none of the pictures of class 'dog' can be read"):
        scanned(samples(files), class_names=("cat", "dog"))
    with pytest.raises(DataError, match="of class number 1"):
        scanned(samples(files))


def test_pictures_to_measure_on_may_lose_a_class(files):
    spoil(files[1], files[3])
    assert scanned(samples(files), every_class=False).labels.tolist() == [0, 0, 0]


def test_another_set_is_read_by_the_same_rules(files):
    spoil(files[1])
    other = scanned(samples(files)).of(samples(files)[:2])
    assert len(other) == 2
    with pytest.raises(DataError, match="1 of 2 pictures"):
        other.read()


@pytest.mark.parametrize("workers", [0, 2])
def test_spare_pictures_are_used_in_order(files, workers):
    spoil(files[0], files[2])
    drawn = [Sample(files[0], 0), Sample(files[1], 1)]
    spare = {0: [Sample(files[i], 0) for i in (2, 4, 3)]}
    pictures = PictureSet(drawn, spare=spare, rules=ReadingRules(workers=workers, max_unreadable=2))
    pictures.read()
    assert [s.picture.name for s in pictures.samples] == ["4.png", "1.png"]
    assert pictures.labels.tolist() == [0, 1]
    assert len(pictures.unreadable) == 2


# Batches for training


def plan(count: int, steps: int) -> list[tuple[list[int], list[int]]]:
    return [
        ([(3 * s + i) % count for i in range(4)], [s * 4 + i for i in range(4)])
        for s in range(steps)
    ]


def together(batches) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = zip(*batches, strict=True)
    return torch.cat(pixels), torch.cat(labels)


def test_training_batches_are_the_same_bits_however_they_are_made(noisy, monkeypatch):
    kept = scanned(noisy)
    steps = plan(40, 10)
    expected = [
        CROPS(Image.fromarray(np.asarray(reduced(open_picture(noisy[i].picture), SIDE))), seed)
        for indices, seeds in steps
        for i, seed in zip(indices, seeds, strict=True)
    ]
    monkeypatch.setattr(kept_pictures, "CACHE_BYTES", 1)
    sets = [kept, scanned(noisy, workers=0), scanned(noisy, workers=2), PictureSet(noisy, SIDE)]
    for pictures in sets:
        torch.manual_seed(int(torch.randint(0, 100, ())))
        pixels, labels = together(pictures.training_batches(steps, CROPS))
        assert torch.equal(pixels, torch.stack(expected))
        assert labels.tolist() == [noisy[i].label for indices, _ in steps for i in indices]


@pytest.mark.parametrize("fits", [True, False])
def test_a_plan_without_end_is_taken_step_by_step(noisy, monkeypatch, fits):
    monkeypatch.setattr(kept_pictures, "CACHE_BYTES", kept_pictures.CACHE_BYTES if fits else 1)
    pictures, taken = scanned(noisy, workers=1), []

    def endless():
        for step in range(10**9):
            taken.append(step)
            yield [step % 40], [step]

    batches = pictures.training_batches(endless(), CROPS)
    next(batches)
    batches.close()
    assert len(taken) <= 4


def test_a_picture_that_is_gone_when_its_turn_comes_is_an_error(noisy, monkeypatch):
    monkeypatch.setattr(kept_pictures, "CACHE_BYTES", 1)
    pictures = scanned(noisy, workers=1)
    noisy[3].picture.unlink()
    with pytest.raises(DataError, match=r"noise03\.png: no such file"):
        list(pictures.training_batches([([3], [0])], CROPS))


def test_a_folder_with_all_kinds_of_broken_files_is_read_and_reported(tmp_path, make_pictures):
    root = make_pictures(tmp_path / "data", ("blue", "red"), 20, 16)
    (root / "blue" / "00.png").write_bytes(b"")
    (root / "blue" / "01.png").write_bytes((root / "blue" / "02.png").read_bytes()[:300])
    (root / "red" / "00.png").write_text("text")
    (root / "red" / "notes.txt").write_text("text")
    (root / "red" / "loop.jpg").symlink_to(root / "red" / "loop.jpg")
    data = read_folder(root)
    pictures = scanned((*data.train, *data.test))
    assert (len(pictures), len(pictures.unreadable), data.ignored) == (37, 4, 1)
