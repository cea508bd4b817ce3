"""Pictures as batches: cached within a budget, checked before training."""

import pytest
import torch
from PIL import Image

from condu_cli.data import loading
from condu_cli.data.folders import Sample
from condu_cli.data.loading import LazyPictures, PictureSet, Selection
from condu_cli.errors import DataError

SIDE = 8
ONE_PICTURE = SIDE * SIDE * 3


@pytest.fixture
def files(tmp_path):
    """Five pictures; the red channel of number i is i."""
    for index in range(5):
        Image.new("RGB", (SIDE, SIDE), (index, 0, 0)).save(tmp_path / f"{index}.png")
    return [tmp_path / f"{index}.png" for index in range(5)]


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that were decoded, in order."""
    names = []
    real = loading.open_picture

    def counting(path):
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(loading, "open_picture", counting)
    return names


def red(image: Image.Image) -> int:
    return image.getpixel((0, 0))[0]


def red_tensor(image: Image.Image) -> torch.Tensor:
    return torch.full((3, 2, 2), float(red(image)))


def samples(files) -> list[Sample]:
    return [Sample(path, index % 2) for index, path in enumerate(files)]


# Decoding and the cache


def test_nothing_is_decoded_before_it_is_asked_for(files, opened):
    pictures = LazyPictures(files)
    assert len(pictures) == 5
    assert opened == []
    assert red(pictures[3]) == 3
    assert opened == ["3.png"]


def test_a_picture_is_decoded_once(files, opened):
    pictures = LazyPictures(files)
    assert pictures[1] is pictures[1]
    assert opened == ["1.png"]


def test_beyond_the_budget_pictures_are_decoded_again(files, opened, monkeypatch):
    monkeypatch.setattr(loading, "CACHE_BYTES", 2 * ONE_PICTURE)
    pictures = LazyPictures(files)
    for _ in range(2):
        assert [red(picture) for picture in pictures] == [0, 1, 2, 3, 4]
    assert opened == ["0.png", "1.png", "2.png", "3.png", "4.png", "2.png", "3.png", "4.png"]


def test_there_is_no_picture_beyond_the_last_or_before_the_first(files):
    pictures = LazyPictures(files)
    assert [red(picture) for picture in pictures] == [0, 1, 2, 3, 4]
    for beyond in (5, -1):
        with pytest.raises(IndexError):
            pictures[beyond]


def test_large_pictures_are_kept_with_their_shorter_side_reduced(tmp_path):
    Image.new("RGB", (100, 50)).save(tmp_path / "wide.png")
    Image.new("RGB", (10, 30)).save(tmp_path / "small.png")
    pictures = LazyPictures([tmp_path / "wide.png", tmp_path / "small.png"], shorter_side=20)
    assert [picture.size for picture in pictures] == [(40, 20), (10, 30)]


def test_pictures_for_training_are_a_little_larger_than_the_crop(tmp_path):
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    kept = PictureSet.for_training([Sample(tmp_path / "a.png", 0)], image_size=40)
    assert kept.pictures[0].size == (46, 46)


# Unreadable pictures


def test_unreadable_pictures_are_found_with_their_places(files):
    files[1].write_text("text")
    files[3].unlink()
    done = []
    errors = LazyPictures(files).unreadable(done.append)
    assert sorted(errors) == [1, 3]
    assert "not a picture" in errors[1].message
    assert done == [1, 2, 3, 4, 5]


def test_a_check_names_the_broken_pictures_and_counts_them(files):
    PictureSet(samples(files)).check()
    for path in files[:4]:
        path.write_text("text")
    with pytest.raises(DataError, match="4 of 5 pictures cannot be read") as caught:
        PictureSet(samples(files)).check()
    assert "0.png" in caught.value.message
    assert "2.png" in caught.value.message
    assert "3.png" not in caught.value.message


# Batches


def test_a_batch_is_pictures_and_labels_in_the_order_asked_for(files):
    pixels, labels = PictureSet(samples(files)).batch([3, 0], red_tensor)
    assert pixels.shape == (2, 3, 2, 2)
    assert pixels[:, 0, 0, 0].tolist() == [3.0, 0.0]
    assert labels.tolist() == [1, 0]
    assert labels.dtype == torch.int64


def test_batches_cover_all_pictures_in_order_and_the_last_may_be_short(files):
    batches = list(PictureSet(samples(files)).batches(2, red_tensor))
    assert [pixels[:, 0, 0, 0].tolist() for pixels, _ in batches] == [[0, 1], [2, 3], [4]]
    assert [labels.tolist() for _, labels in batches] == [[0, 1], [0, 1], [0]]


def test_no_pictures_give_no_batches():
    assert list(PictureSet([]).batches(2, red_tensor)) == []


# Selections


def test_a_selection_has_its_own_order(files, opened):
    chosen = Selection(LazyPictures(files), [4, 1, 4])
    assert len(chosen) == 3
    assert [red(picture) for picture in chosen] == [4, 1, 4]
    assert opened == ["4.png", "1.png"]
