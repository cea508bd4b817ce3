"""Opening one picture: every kind of file becomes RGB, or one clear error."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condu_cli.data import pictures
from condu_cli.data.pictures import list_pictures, open_picture
from condu_cli.errors import DataError

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


def test_rgb_stays_as_it_is(tmp_path):
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
def test_a_file_that_is_no_picture_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"text\.jpg: not a picture"):
        open_picture(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_picture(tmp_path / "nowhere.png")


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(DataError, match="is a folder, not a picture"):
        open_picture(tmp_path)


def test_a_path_with_a_zero_byte_is_an_error():
    with pytest.raises(DataError, match="cannot be read"):
        open_picture(Path("a\0b.png"))


def test_too_many_pixels_are_refused_before_decoding(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (20, 10)))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 200)
    assert open_picture(path).size == (20, 10)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 199)
    monkeypatch.setattr(pictures, "_to_rgb", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="20x10 pixels is over the limit of 199"):
        open_picture(path)


def test_our_limit_decides_and_no_warning_of_pillow(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (20, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    assert open_picture(path).size == (20, 10)


def test_pictures_of_a_folder_come_sorted_at_any_depth(tmp_path):
    for name in ("b.PNG", "a.jpg", "deep/er/c.webp", "notes.txt", "archive.zip"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_pictures(tmp_path)]
    assert found == ["a.jpg", "b.PNG", "deep/er/c.webp"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in (".hidden.png", ".thumbs/a.png", "seen.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list_pictures(tmp_path) == [tmp_path / "seen.png"]
