"""glibc keeps freed memory once a model is loaded for a CPU, unless the user decided otherwise."""

import os
import subprocess
import sys

import pytest

from condu_cli.backbone import allocator, base_models
from condu_cli.backbone.allocator import M_MMAP_MAX, M_TRIM_THRESHOLD, keep_freed_memory

IS_GLIBC = allocator._glibc() is not None
PROBE = """
import ctypes, sys

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost").split()]

from condu_cli.backbone.allocator import keep_freed_memory
told = keep_freed_memory()
assert "torch" not in sys.modules
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.mallinfo2.restype = Mallinfo2
block = libc.malloc(100 << 20)
mapped = libc.mallinfo2().hblkhd
libc.free(block)
print(told, mapped >> 20, libc.mallinfo2().keepcost >> 20)
"""


class Libc:
    """Records calls of `mallopt`."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.calls.append((parameter, value))
        return 1


@pytest.fixture
def libc(monkeypatch):
    for name in [n for n in os.environ if n.startswith("MALLOC_") or n == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)
    fake = Libc()
    monkeypatch.setattr(allocator, "_glibc", lambda: fake)
    keep_freed_memory.cache_clear()
    base_models.load_base.cache_clear()
    yield fake
    keep_freed_memory.cache_clear()
    base_models.load_base.cache_clear()


def test_glibc_is_told_once(libc):
    assert keep_freed_memory()
    assert keep_freed_memory()
    assert libc.calls == [(M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_ARENA_MAX", "2"),
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.rtld.nns=2:glibc.malloc.trim_threshold=131072"),
    ],
)
def test_what_the_user_configured_stays(libc, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()
    assert libc.calls == []


def test_tunables_of_other_parts_of_glibc_say_nothing_about_malloc(libc, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.rtld.nns=2")
    assert keep_freed_memory()


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch, platform):
    monkeypatch.setattr(allocator.sys, "platform", platform)
    assert allocator._glibc() is None


def test_another_c_library_is_left_alone(monkeypatch):
    def missing(name):
        raise OSError(f"Error loading shared library {name}: No such file or directory")

    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", missing)
    assert allocator._glibc() is None


@pytest.mark.skipif(not IS_GLIBC, reason="needs glibc's malloc")
def test_another_allocator_in_glibcs_place_is_left_alone(monkeypatch):
    places = iter((1, 2))
    monkeypatch.setattr(allocator, "_address", lambda _: next(places))
    assert allocator._glibc() is None


@pytest.mark.skipif(not IS_GLIBC, reason="needs glibc's malloc")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, ["True", False, True]), ({"MALLOC_TOP_PAD_": "0"}, ["False", True, False])],
)
def test_a_large_block_stays_in_the_process_once_freed(settings, expected):
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    clean.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**clean, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    told, mapped, kept = done.stdout.split()
    assert [told, int(mapped) >= 100, int(kept) >= 100] == expected


def test_loading_a_model_for_a_cpu_tells_glibc(libc):
    base_models.load_base("tiny", "cpu")
    assert libc.calls


def test_loading_a_model_for_another_device_does_not(libc):
    base_models.load_base("tiny", "meta")
    assert libc.calls == []
