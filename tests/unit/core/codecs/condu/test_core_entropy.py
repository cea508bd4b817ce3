"""Entropy coding: bytes survive, streams are bounded, corrupt ones are refused by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.codecs.condu import entropy
from condu_cli.core.codecs.condu.entropy import PIECE, compress, decompress, size_of

HEADER = 8


def noise(size, seed=1):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def skewed(size, seed=1):
    """Bytes without repetitions, some of them more frequent than others."""
    return np.random.default_rng(seed).normal(scale=4, size=size).astype(np.int8).view(np.uint8)


# Round trips


@given(st.binary(max_size=300))
def test_bytes_survive(content):
    data = np.frombuffer(content, dtype=np.uint8)
    back = decompress(compress(data), "a", data.size)
    assert back.dtype == np.uint8
    assert back.tobytes() == content


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 5])
@pytest.mark.parametrize("kind", [noise, skewed, lambda size: np.zeros(size, np.uint8)])
def test_pieces_survive(kind, size):
    data = kind(size)
    stream = compress(data)
    assert size_of(stream, "a") == size
    assert np.array_equal(decompress(stream, "a", size), data)


def test_numbers_are_compressed_as_their_bytes():
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert decompress(compress(numbers), "a", 48).tobytes() == numbers.tobytes()
    assert decompress(compress(numbers.T), "a", 48).tobytes() == numbers.T.tobytes()


def test_threads_leave_no_trace():
    data = skewed(3 * PIECE + 7)
    stream = compress(data, threads=1)
    assert np.array_equal(compress(data, threads=3), stream)
    assert np.array_equal(decompress(stream, "a", data.size, threads=3), data)


def test_a_stream_may_be_read_only():
    stream = compress(skewed(1000))
    stream.flags.writeable = False
    assert np.array_equal(decompress(stream, "a", 1000), skewed(1000))


# Size


def test_frequent_bytes_take_less_room_and_runs_next_to_none():
    assert compress(skewed(PIECE)).size < 0.6 * PIECE
    assert compress(np.zeros(PIECE, np.uint8)).size < PIECE / 500
    assert compress(noise(PIECE)).size < 1.002 * PIECE


# Broken streams


def test_a_stream_of_another_size_is_refused():
    stream = compress(skewed(100))
    for size in (99, 101, 0):
        with pytest.raises(InvalidStateError, match="'a' stands for 100 bytes") as caught:
            decompress(stream, "a", size)
        assert caught.value.tensor == "a"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(7, np.uint8),
        np.zeros(0, np.uint8),
        np.zeros(16, np.int8),
        np.zeros((4, 4), np.uint8),
        np.array(0, np.uint8),
        np.zeros(8, np.float32),
    ],
)
def test_an_invalid_stream_is_refused(array):
    with pytest.raises(InvalidStateError, match="not a stream of bytes"):
        decompress(array, "a", 0)


def test_every_truncation_and_every_addition_is_refused():
    stream = compress(skewed(200))
    for broken in (*(stream[:size] for size in range(stream.size)), np.append(stream, stream[:1])):
        with pytest.raises(InvalidStateError, match="stored tensor 'a'"):
            decompress(broken, "a", 200)


def claiming(size, length, piece):
    header = np.array([size], "<u8").tobytes() + np.array(length, "<u4").tobytes()
    return np.frombuffer(header + piece, dtype=np.uint8)


def test_a_piece_of_another_length_is_refused():
    piece = compress(skewed(200))[HEADER + 4 :].tobytes()
    for size in (199, 201):
        with pytest.raises(InvalidStateError, match="holds a piece of another length"):
            decompress(claiming(size, [len(piece)], piece), "a", size)
    with pytest.raises(InvalidStateError, match="holds a piece of another length"):
        decompress(claiming(200, [len(piece) + 1], piece + b"\0"), "a", 200)
    with pytest.raises(InvalidStateError, match="is not as long as its pieces"):
        decompress(claiming(200, [len(piece) - 1], piece), "a", 200)
    with pytest.raises(InvalidStateError, match="cannot be decompressed"):
        decompress(claiming(200, [3], b"\xff\xff\xff"), "a", 200)


def test_lengths_do_not_overflow():
    with pytest.raises(InvalidStateError, match="is not as long as its pieces"):
        decompress(claiming(2 * PIECE, [2**32 - 1] * 2, bytes(5000)), "a", 2 * PIECE)


def test_no_memory_is_allocated_for_impossible_sizes(monkeypatch):
    made = []
    monkeypatch.setattr(entropy.np, "empty", lambda *a, **_: made.append(a))
    for size in (2**40, 2**63, 2**64 - 1):
        with pytest.raises(InvalidStateError, match="is too short to hold"):
            decompress(claiming(size, [], bytes(100)), "a", size)
    assert not made


@given(st.integers(0, 2**32 - 1))
def test_flipped_bits_are_refused_or_give_bytes(seed):
    generator = np.random.default_rng(seed)
    stream = compress(skewed(500)).copy()
    stream[generator.integers(stream.size)] ^= np.uint8(1 << generator.integers(8))
    try:
        assert decompress(stream, "a", 500).size == 500
    except InvalidStateError as error:
        assert error.tensor == "a"  # noqa: PT017 - both outcomes are right
