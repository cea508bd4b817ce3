"""Standard streams that fail."""

import os
from pathlib import Path

import pytest

from condu_cli.cli.writing.streams import Lasting

FULL = Path("/dev/full")


@pytest.fixture
def full():
    if not FULL.exists():
        pytest.skip("there is no device that is always full")
    with FULL.open("w") as stream:
        yield stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_a_stream_that_works_is_written_to(tmp_path):
    with (tmp_path / "out").open("w") as stream:
        lasting = Lasting(stream)
        print("a line", file=lasting, flush=True)
        assert lasting.fileno() == stream.fileno()
    assert (tmp_path / "out").read_text() == "a line\n"


def test_a_full_device_is_written_to_once_and_then_discarded(full):
    lasting = Lasting(full)
    for _ in range(3):
        print("a line", file=lasting, flush=True)
    assert os.path.samestat(os.fstat(full.fileno()), Path(os.devnull).stat())


def test_a_pipe_that_was_closed_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        print("a line", file=Lasting(stream), flush=True)
