"""Run a pass over chunks: working memory for each thread, results in order."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from condu_cli.core.passes import kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.platform import Platform
    from condu_cli.core.arrays.segments import Chunk, Segmentation

T = TypeVar("T")
# Threads compete for the interpreter several times in each chunk. If many small tensors make the
# mean chunk smaller than this (elements), threads wait longer than they work.
WORTH_A_THREAD = 1 << 17
WAITING = 4  # chunks queued per thread, so that none waits for the collection of results


@dataclass(frozen=True)
class Execution:
    """How to run, without effect on the result; None: chosen automatically.

    `block_size` is in elements, a positive multiple of 64. `kernels` is "compiled" or
    "vectorised". Torch tensors always use one thread and vectorised kernels.
    """

    block_size: int | None = None
    threads: int | None = None
    kernels: str | None = None


class Room:
    """One thread's working arrays, reused for every chunk."""

    def __init__(self, platform: Platform, elements: int, tasks: int) -> None:
        self._bits = platform.word.itemsize * 8
        words = tasks * elements // self._bits
        self._floats = [platform.empty((elements,), np.dtype(np.float32)) for _ in range(3)]
        self._words = [platform.empty((words,), platform.word) for _ in range(2)]

    def values(self, chunk: Chunk) -> list[Array]:
        """Three float32 arrays (segments, padded)."""
        return [f[: chunk.room].reshape(chunk.segments, chunk.padded) for f in self._floats]

    def masks(self, chunk: Chunk, tasks: int, slot: int) -> Array:
        """Mask words (tasks, segments, padded / 64) in slot 0 or 1.

        Words are the platform's: bytes for torch, (tasks, segments, padded / 8).
        """
        words = chunk.padded // self._bits
        used = self._words[slot][: tasks * chunk.segments * words]
        return used.reshape(tasks, chunk.segments, words)


class Rooms:
    """A room for each thread, created lazily."""

    def __init__(self, platform: Platform, elements: int, tasks: int) -> None:
        self._size = (platform, elements, max(1, tasks))
        self._local = threading.local()

    def of_this_thread(self) -> Room:
        """Return the calling thread's room."""
        if not hasattr(self._local, "room"):
            self._local.room = Room(*self._size)
        room: Room = self._local.room
        return room


def in_order(
    work: Callable[[Chunk], T], chunks: Iterable[Chunk], threads: int | None
) -> Iterator[tuple[Chunk, T]]:
    """Yield (chunk, work(chunk)) in the order of the chunks, computed by several threads.

    The first error in that order is raised, after the threads have stopped.
    """
    count = threads or kernels.threads()
    if count == 1:
        for chunk in chunks:
            yield chunk, work(chunk)
        return
    todo = iter(chunks)
    with ThreadPoolExecutor(count) as pool:
        running = deque((c, pool.submit(work, c)) for c in islice(todo, count * WAITING))
        try:
            while running:
                chunk, future = running.popleft()
                result = future.result()
                running.extend((c, pool.submit(work, c)) for c in islice(todo, 1))
                yield chunk, result
        finally:
            for _, future in running:
                future.cancel()


def stream(
    work: Callable[[Chunk, Room, ModuleType], T],
    segmentation: Segmentation,
    platform: Platform,
    execution: Execution | None,
    tasks: int,
) -> Iterator[tuple[Chunk, T]]:
    """Yield (chunk, work(chunk, room, loops)) for all chunks of a layout, in order.

    A room has space for the masks of `tasks` tasks. Iterate it within `platform.working()`.
    Raises ValueError for a block size that is not a positive multiple of 64 or for unknown kernels,
    and whatever `work` raises.
    """
    wanted = execution or Execution()
    block_size = platform.block_size if wanted.block_size is None else wanted.block_size
    chunks = list(segmentation.chunks(block_size))
    loops = kernels.choose(segmentation.layout.count * tasks, platform.kernels or wanted.kernels)
    rooms = Rooms(platform, max((chunk.room for chunk in chunks), default=0), tasks)
    threads = platform.threads or wanted.threads
    if threads is None and segmentation.layout.count < WORTH_A_THREAD * len(chunks):
        threads = 1
    return in_order(lambda chunk: work(chunk, rooms.of_this_thread(), loops), chunks, threads)
