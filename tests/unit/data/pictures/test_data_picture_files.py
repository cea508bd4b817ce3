"""Opening one picture: every kind of file becomes RGB or a clear error."""

import errno
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from condu_cli.data.pictures import picture_files
from condu_cli.data.pictures.picture_files import (
    StoredPicture,
    open_picture,
    picture_name,
)
from condu_cli.errors import DataError, ExhaustedError

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)
ORIENTATION = 0x0112


def saved(folder: Path, image: Image.Image, name: str = "picture.png", **options) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def pixels(path: Path) -> list[tuple[int, ...]]:
    image = open_picture(path)
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def two(mode: str, left, right) -> Image.Image:
    image = Image.new(mode, (2, 1), left)
    image.putpixel((1, 0), right)
    return image


def test_rgb_stays_unchanged(tmp_path):
    assert pixels(saved(tmp_path, two("RGB", RED, GREEN))) == [RED, GREEN]


def test_grey_becomes_three_equal_channels(tmp_path):
    assert pixels(saved(tmp_path, two("L", 7, 200))) == [(7,) * 3, (200,) * 3]


def test_transparency_is_laid_on_white(tmp_path):
    path = saved(tmp_path, two("RGBA", (*RED, 255), (0, 0, 0, 0)))
    assert pixels(path) == [RED, WHITE]


def test_half_transparent_is_mixed_with_white(tmp_path):
    path = saved(tmp_path, two("RGBA", (0, 0, 0, 128), (0, 0, 0, 255)))
    assert pixels(path) == [(127,) * 3, (0,) * 3]


def test_grey_with_alpha_is_laid_on_white(tmp_path):
    assert pixels(saved(tmp_path, two("LA", (9, 255), (9, 0)))) == [(9,) * 3, WHITE]


def test_a_transparent_palette_entry_becomes_white(tmp_path):
    image = two("P", 0, 1)
    image.putpalette([*RED, *GREEN] + [0] * 762)
    assert pixels(saved(tmp_path, image, transparency=0)) == [WHITE, GREEN]


def test_a_palette_without_transparency_keeps_its_colours(tmp_path):
    image = two("P", 0, 1)
    image.putpalette([*RED, *GREEN] + [0] * 762)
    assert pixels(saved(tmp_path, image)) == [RED, GREEN]


@pytest.mark.parametrize("name", ["picture.png", "picture.tif"])
def test_sixteen_bit_grey_keeps_its_range(tmp_path, name):
    values = np.array([[0, 16000, 32000, 65535]], dtype=np.uint16)
    found = pixels(saved(tmp_path, Image.fromarray(values), name))
    assert found == [(v,) * 3 for v in (0, 62, 125, 255)]


def test_cmyk_becomes_rgb(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "picture.jpg", quality=95)
    red, green, blue = pixels(path)[0]
    assert red > 240
    assert max(green, blue) < 15


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned: rotate clockwise by a quarter
    path = saved(tmp_path, two("RGB", RED, GREEN), exif=exif)
    image = open_picture(path)
    assert image.size == (1, 2)
    assert pixels(path) == [RED, GREEN]
    exif[ORIENTATION] = 8
    assert pixels(saved(tmp_path, two("RGB", RED, GREEN), exif=exif)) == [GREEN, RED]


def test_an_animation_shows_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
    path = saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert set(pixels(path)) == {RED}


def test_the_suffix_does_not_matter_for_opening(tmp_path):
    path = saved(tmp_path, two("RGB", RED, GREEN), "picture.dat", format="PNG")
    assert pixels(path) == [RED, GREEN]


def test_a_truncated_picture_is_an_error_that_names_it(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"picture\.png: cannot be read"):
        open_picture(path)


@pytest.mark.parametrize("content", [b"", b"not a picture at all\n", b"\xff\xd8\xff"])
def test_a_file_that_is_not_a_picture_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"text\.jpg: not a picture"):
        open_picture(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_picture(tmp_path / "nowhere.png")


def test_a_folder_is_not_a_picture(tmp_path):
    with pytest.raises(DataError, match="is a folder, not a picture"):
        open_picture(tmp_path)


def test_a_path_with_a_zero_byte_is_an_error():
    with pytest.raises(DataError, match="cannot be read"):
        open_picture(Path("a\0b.png"))


def test_too_many_pixels_are_refused_before_decoding(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (20, 10)))
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 200)
    assert open_picture(path).size == (20, 10)
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 199)
    monkeypatch.setattr(picture_files, "_to_rgb", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="20x10 pixels is over the limit of 199"):
        open_picture(path)


def test_our_limit_decides_and_no_warning_of_pillow(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (20, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    assert open_picture(path).size == (20, 10)


# Unusual pixel formats


def test_black_and_white_of_one_bit(tmp_path):
    assert pixels(saved(tmp_path, two("1", 0, 1))) == [(0,) * 3, (255,) * 3]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 127, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 32000.0, 65535.0], [0, 125, 255]),
        ([-10.0, 0.0, 10.0], [0, 127, 255]),
        ([0.0, 1e5, 2e5], [0, 127, 255]),
        ([5e5, 5e5, 5e5], [0, 0, 0]),
        ([float("nan"), float("inf"), 1.0], [0, 255, 255]),
    ],
)
def test_floating_point_grey_is_scaled_by_the_first_range_that_holds_it(tmp_path, values, expected):
    picture = Image.fromarray(np.array([values], dtype=np.float32))
    assert picture.mode == "F"
    assert pixels(saved(tmp_path, picture, "float.tif")) == [(v,) * 3 for v in expected]


def test_32_bit_grey_is_scaled_likewise(tmp_path):
    picture = Image.fromarray(np.array([[-100, 0, 100]], dtype=np.int32))
    assert pixels(saved(tmp_path, picture, "int.tif")) == [(0,) * 3, (127,) * 3, (255,) * 3]


def test_a_picture_with_corrupt_exif_data_is_read_unrotated(tmp_path):
    path = saved(tmp_path, two("RGB", RED, GREEN), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    assert pixels(path) == [RED, GREEN]


def test_a_png_that_is_called_jpg_is_a_picture(tmp_path):
    path = saved(tmp_path, two("RGB", RED, GREEN)).rename(tmp_path / "wrong.jpg")
    assert pixels(path) == [RED, GREEN]


# Files that cannot be opened


def test_a_link_to_itself_is_an_error(tmp_path):
    path = tmp_path / "loop.png"
    path.symlink_to(path)
    with pytest.raises(DataError, match=r"loop\.png: cannot be read"):
        open_picture(path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    with pytest.raises(DataError, match="is a device or a pipe"):
        open_picture(path)


def test_a_file_without_the_right_to_read_it_is_an_error(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (2, 2)))

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(picture_files.Image, "open", forbidden)
    with pytest.raises(DataError, match="permission denied"):
        open_picture(path)


def png_header(width: int, height: int) -> bytes:
    """Write a PNG whose header claims that size and that holds no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, data)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [10_001, 50_000])
def test_a_huge_picture_is_refused_without_room_being_made_for_it(tmp_path, monkeypatch, side):
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(side, side))
    monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("room was made"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="pixels is over the limit of 100,000,000"):
        open_picture(path)


def test_a_jpeg_above_the_limit_is_reduced_while_it_is_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (200, 100), RED), "big.jpg")
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 50 * 25)
    image = open_picture(path)
    assert image.size == (50, 25)
    assert image.getpixel((20, 10))[0] > 240


def test_a_jpeg_above_pillows_own_limit_is_reduced_too(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (200, 100), RED), "big.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 50 * 25)
    assert open_picture(path).size == (50, 25)


@pytest.mark.parametrize(("limit", "progressive"), [(50 * 25, True), (10, False)])
def test_a_jpeg_that_cannot_be_reduced_so_far_is_refused(tmp_path, monkeypatch, limit, progressive):
    picture = Image.new("RGB", (200, 100), RED)
    path = saved(tmp_path, picture, "big.jpg", progressive=progressive)
    monkeypatch.setattr(picture_files, "MAX_PIXELS", limit)
    with pytest.raises(DataError, match="200x100 pixels is over the limit"):
        open_picture(path)


# Pictures in a store


@dataclass(frozen=True)
class Drawer:
    """A store of one-pixel pictures; number 3 is corrupt."""

    def picture(self, index: int) -> Image.Image:
        if index == 3:
            raise OSError("the drawer is stuck")
        return Image.new("LA", (1, 1), (index, 255))


def test_a_picture_in_a_store_is_opened_like_a_file():
    image = open_picture(StoredPicture("drawer[7]", Drawer(), 7))
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (7, 7, 7))


def test_an_error_names_the_picture_in_its_store():
    with pytest.raises(DataError, match=r"drawer\[3\]: cannot be read \(the drawer is stuck\)"):
        open_picture(StoredPicture("drawer[3]", Drawer(), 3))


def test_pictures_are_called_by_their_path_or_their_name_in_the_store():
    assert picture_name(Path("a/b.png")) == str(Path("a/b.png"))
    assert picture_name(StoredPicture("train[1]", Drawer(), 1)) == "train[1]"


def test_a_limit_of_the_system_is_not_the_pictures_fault(tmp_path, monkeypatch, make_pictures):
    path = make_pictures(tmp_path / "set", ("blue",), 1, 16) / "blue" / "00.png"

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("condu_cli.data.pictures.picture_files._decoded", refuse)
    with pytest.raises(ExhaustedError, match="open files"):
        open_picture(path)
