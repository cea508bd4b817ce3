"""Arrays in the user's cache folder."""

import numpy as np
import pytest

from condu_cli.backbone import user_cache
from condu_cli.backbone.user_cache import UserCache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return UserCache("things")


def test_what_was_saved_is_loaded_for_exactly_the_same(cache):
    assert cache.load(["a", "b"]) is None
    cache.save(["a", "b"], {"x": np.arange(6.0).reshape(2, 3)})
    assert np.array_equal(cache.load(["a", "b"])["x"], np.arange(6.0).reshape(2, 3))
    assert cache.load(["a"]) is None
    assert cache.load(["b", "a"]) is None


def test_kinds_are_kept_apart(cache):
    cache.save(["a"], {"x": np.ones(1)})
    assert UserCache("others").load(["a"]) is None


@pytest.mark.parametrize(
    "corruption", [lambda b: b[:-1], lambda b: b[:10], lambda b: b"", bytes.upper]
)
def test_a_corrupt_file_counts_as_absent(cache, corruption):
    cache.save(["a"], {"x": np.ones(3)})
    (file,) = cache.folder.glob("*")
    file.write_bytes(corruption(file.read_bytes()))
    assert cache.load(["a"]) is None


def test_a_folder_that_cannot_be_written_to_is_not_an_error(cache, tmp_path):
    (tmp_path / "condu").write_text("in the way")
    cache.save(["a"], {"x": np.ones(1)})
    assert cache.load(["a"]) is None


def test_those_used_least_recently_make_room(cache, monkeypatch):
    import os

    for number, key in enumerate("abc"):
        cache.save([key], {"x": np.zeros(1000)})
        os.utime(cache._path([key]), (number, number))
    cache.load(["a"])  # used again
    size = cache._path(["a"]).stat().st_size
    monkeypatch.setattr(user_cache, "LIMIT_BYTES", 3 * size)
    cache.save(["d"], {"x": np.zeros(1000)})
    assert [key for key in "abcd" if cache.load([key]) is not None] == ["a", "c", "d"]


def test_what_is_larger_than_the_whole_room_is_not_kept(cache, monkeypatch):
    monkeypatch.setattr(user_cache, "LIMIT_BYTES", 100)
    cache.save(["a"], {"x": np.zeros(1000)})
    assert cache.load(["a"]) is None


def test_nothing_but_the_files_is_left(cache):
    cache.save(["a"], {"x": np.ones(1)})
    assert len(list(cache.folder.iterdir())) == 1


def test_leftovers_of_a_killed_process_are_removed_once_old(cache):
    import os

    cache.save(["a"], {"x": np.ones(1)})
    for name, modified in (("tmpold", 0), ("tmpnew", None)):
        draft = cache.folder / name
        draft.mkdir()
        (draft / "half.bin").write_bytes(b"half")
        if modified is not None:
            os.utime(draft, (modified, modified))
    cache.save(["b"], {"x": np.ones(1)})
    assert not (cache.folder / "tmpold").exists()
    assert (cache.folder / "tmpnew").exists()
