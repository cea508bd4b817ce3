"""Windows: every picture decoded once, in order, within a memory budget."""

import weakref

import numpy as np
import pytest
from PIL import Image
from stored_pictures import Logged

from condu_cli.data.pictures import decoding, windows
from condu_cli.data.pictures.decoding import Reading
from condu_cli.data.pictures.geometry import EvaluationGeometry
from condu_cli.data.pictures.picture_files import open_picture

SMALL, LARGE = EvaluationGeometry(8), EvaluationGeometry(12)
BOTH = (SMALL, LARGE)
BYTES = 3 * (8**2 + 12**2)


@pytest.fixture(params=[10, 100])
def noise(request, tmp_path):
    """Return pictures of noise, of many sizes."""
    rng = np.random.default_rng(0)
    files = []
    for index in range(request.param):
        values = rng.integers(0, 256, (10 + index % 7, 15, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"{index:03d}.png")
        files.append(tmp_path / f"{index:03d}.png")
    return files


class Tracked(np.ndarray):
    """Pixels hashed by identity, so that a set can hold them."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


def holding(monkeypatch, count: int) -> None:
    """Let this many pictures fit into a window."""
    monkeypatch.setattr(windows, "WINDOW_BYTES", count * BYTES + BYTES - 1)


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_every_picture_is_decoded_exactly_once(noise, tmp_path, monkeypatch, workers):
    holding(monkeypatch, 7)
    store = Logged(tuple(noise), tmp_path / "log")
    read = [len(w) for w in windows.windows(store.pictures, BOTH, workers=workers)]
    assert max(read) == 7
    assert sum(read) == len(noise)
    assert store.decodings() == dict.fromkeys(range(len(noise)), 1)


def test_every_geometry_sees_every_picture_whole_and_in_order(noise, monkeypatch):
    holding(monkeypatch, 20)
    seen = {geometry: [] for geometry in BOTH}
    places = []
    for window in windows.windows(noise, BOTH):
        places += window.places
        for geometry in BOTH:
            seen[geometry] += window.views[geometry]
    assert places == list(range(len(noise)))
    for geometry in BOTH:
        for pixels, file in zip(seen[geometry], noise, strict=True):
            assert np.array_equal(pixels, np.asarray(geometry(open_picture(file))))


@pytest.mark.parametrize("workers", [None, 0])
def test_no_more_pictures_are_alive_than_a_window_holds(noise, monkeypatch, workers):
    holding(monkeypatch, 20)
    alive, most = weakref.WeakSet(), 0
    real = Reading.one

    def tracking(self, picture):
        nonlocal most
        answer = real(self, picture)
        pixels = answer.seen[0].view(Tracked)
        alive.add(pixels)
        most = max(most, len(alive))
        return decoding.Decoded(answer.kept, (pixels, *answer.seen[1:]))

    monkeypatch.setattr(Reading, "one", tracking)
    for window in windows.windows(noise, BOTH, workers=workers):
        assert len(alive) == len(window)
    assert most == min(20, len(noise))


def test_what_cannot_be_read_has_a_place_and_a_reason(noise, monkeypatch):
    holding(monkeypatch, 4)
    noise[1].write_text("text")
    noise[9].unlink()
    found, places, ends = {}, [], []
    for window in windows.windows(noise[:10], BOTH):
        found |= window.unreadable
        places += window.places
        ends.append((window.start, window.end, window.total))
    assert places == [0, 2, 3, 4, 5, 6, 7, 8]
    assert {place: broken.reason.rsplit(": ", 1)[1] for place, broken in found.items()} == {
        1: "not a picture",
        9: "no such file",
    }
    assert ends == [(0, 4, 10), (4, 8, 10), (8, 10, 10)]


def test_reading_is_reported_picture_by_picture(noise):
    done = []
    for _ in windows.windows(noise, (SMALL,), on_done=done.append):
        pass
    assert done == list(range(1, len(noise) + 1))


def test_a_picture_larger_than_a_window_is_a_window(noise, monkeypatch):
    monkeypatch.setattr(windows, "WINDOW_BYTES", 1)
    assert [len(w) for w in windows.windows(noise[:3], (SMALL,))] == [1, 1, 1]


def test_no_pictures_make_no_window():
    assert list(windows.windows([], (SMALL,))) == []
