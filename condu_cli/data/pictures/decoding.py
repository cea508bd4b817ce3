"""Decode pictures in order, in this process or ahead of time in worker processes.

This module does not import torch, because every worker imports it. Workers are spawned, never
forked: torch and numba run threads, a fork beside threads may hang, and Python 3.12 and later warn
about it. Two such workers were ready after 0.3 s on idle cores; if the program's main module, and
so the workers, imported torch, after nine (2026-11-22, 2 cores, Python 3.11).
"""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from condu_cli.data.pictures.geometry import reduced
from condu_cli.data.pictures.picture_files import Picture, StoredPicture, open_picture, picture_name
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Executor, Future

    from PIL import Image

    from condu_cli.data.pictures.geometry import CropGeometry

Pixels: TypeAlias = NDArray[np.uint8]
"""One RGB picture (H, W, 3) uint8."""

MAX_WORKERS = 8
START_SECONDS = 2.0
"""Start workers only if they save more than this: starting and ending two takes 0.4 s on idle
cores, 1 s and more on busy ones (2026-11-22, 2 cores)."""
PILOT = 16
"""Decode this many pictures here first, to measure how long one takes."""
CHUNK = 8
"""Pictures per task of a worker."""
SENDABLE_BYTES = 1 << 20
"""A pickled store larger than this holds its pictures in memory and is not sent to workers."""

Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Geometry(Protocol):
    """Scales and crops a picture; picklable."""

    def __call__(self, image: Image.Image, /) -> Image.Image:
        """Return the scaled and cropped picture."""


@dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be read, and the reason, in one line that names it."""

    name: str
    reason: str
    error: DataError = field(compare=False, repr=False)


@dataclass(frozen=True)
class Decoded:
    """A decoded picture: the copy to keep, if requested, and one view per geometry."""

    kept: Pixels | None
    seen: tuple[Pixels, ...]


@dataclass(frozen=True)
class Reading:
    """How to read a picture: the size to keep, and the views to make."""

    shorter_side: int | None
    geometries: tuple[Geometry, ...] = ()
    keep: bool = True

    def one(self, picture: Picture) -> Decoded | Unreadable:
        """Decode one picture."""
        try:
            image = open_picture(picture)
        except DataError as exc:
            return Unreadable(picture_name(picture), exc.message, exc)
        seen = tuple(np.asarray(geometry(image)) for geometry in self.geometries)
        kept = np.asarray(reduced(image, self.shorter_side)) if self.keep else None
        return Decoded(kept, seen)

    def __call__(self, pictures: Sequence[Picture]) -> list[Decoded | Unreadable]:
        """Decode some pictures, in order."""
        return [self.one(picture) for picture in pictures]


@dataclass(frozen=True)
class Cropping:
    """Makes training crops of pictures that are not in memory."""

    shorter_side: int | None
    geometry: CropGeometry

    def __call__(self, task: tuple[Sequence[Picture], Sequence[int]]) -> list[Pixels]:
        """Return one crop per picture and seed; raises DataError like `open_picture`."""
        pictures, seeds = task
        return [
            np.asarray(self.geometry(reduced(open_picture(picture), self.shorter_side), seed))
            for picture, seed in zip(pictures, seeds, strict=True)
        ]


def decoded(
    pictures: Sequence[Picture], reading: Reading, workers: int | None = None
) -> Generator[Decoded | Unreadable, None, None]:
    """Decode every picture in order; `workers` None: as many processes as pay off, 0: none."""
    pilot = pictures[:PILOT] if workers is None else ()
    started = time.perf_counter()
    first = deque(reading(pilot))
    seconds = time.perf_counter() - started
    while first:
        yield first.popleft()  # no second reference is kept here
    left = pictures[len(pilot) :]
    if workers is None:
        workers = worth_starting(len(left) * seconds / max(len(pilot), 1), left)
    elif workers and not can_be_sent(left):
        workers = 0
    if workers == 0:
        for picture in left:
            yield reading.one(picture)
        return
    chunks = (left[i : i + CHUNK] for i in range(0, len(left), CHUNK))
    with closing(in_workers(reading, chunks, workers)) as answers:
        for answer in answers:
            yield from answer


def worth_starting(seconds: float, pictures: Sequence[Picture]) -> int:
    """Return how many workers to start for this much decoding, 0 if they would not pay off."""
    cores = available_cores()
    saved = seconds * (1 - 1 / cores)
    return cores if saved > START_SECONDS and can_be_sent(pictures) else 0


def available_cores() -> int:
    """Return the number of cores that this process may use, at most `MAX_WORKERS`."""
    allowed = getattr(os, "sched_getaffinity", None)
    return min(MAX_WORKERS, len(allowed(0)) if allowed else os.cpu_count() or 1)


def can_be_sent(pictures: Sequence[Picture]) -> bool:
    """Return whether all pictures are on disk, so that workers can be sent their names."""
    stores = {id(p.store): p.store for p in pictures if isinstance(p, StoredPicture)}
    return all(len(pickle.dumps(store)) <= SENDABLE_BYTES for store in stores.values())


def in_workers(
    function: Callable[[Task], Answer], tasks: Iterable[Task], workers: int
) -> Generator[Answer, None, None]:
    """Yield the results of tasks from worker processes, in order; close it to end them.

    Tasks are taken lazily, a few ahead of time. If a worker dies, its tasks and all later ones run
    in this process.
    """
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    # Two tasks per worker, so that none is idle while a result is being used.
    return _ahead(executor, function, tasks, 2 * workers)


def in_thread(
    function: Callable[[Task], Answer], tasks: Iterable[Task]
) -> Generator[Answer, None, None]:
    """Yield the results of tasks from a background thread, in order, one ahead of time.

    On two busy cores this was 7 % slower to 30 % faster than running the tasks in between
    (2026-11-22); while a GPU trains, the cores are idle and the work is hidden.
    """
    return _ahead(ThreadPoolExecutor(1), function, tasks, 2)


def _ahead(
    executor: Executor, function: Callable[[Task], Answer], tasks: Iterable[Task], depth: int
) -> Generator[Answer, None, None]:
    def submit(task: Task) -> tuple[Task, Future[Answer] | None]:
        try:
            with _interrupts_hidden_from_children():
                return task, executor.submit(function, task)
        except BrokenProcessPool:
            return task, None

    def answer(task: Task, future: Future[Answer] | None) -> Answer:
        if future is not None:
            try:
                return future.result()
            except BrokenProcessPool:
                pass
        return function(task)

    tasks = iter(tasks)
    waiting: deque[tuple[Task, Future[Answer] | None]] = deque()
    try:
        while True:
            waiting.extend(submit(task) for task in islice(tasks, depth - len(waiting)))
            if not waiting:
                return
            yield answer(*waiting.popleft())
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_hidden_from_children() -> Iterator[None]:
    """Keep Ctrl-C from processes started inside; this process gets it, and ends them.

    The signal is blocked, not ignored, so that one sent right now is delayed, not lost. Windows has
    no such thing; there a worker may report the interrupt.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
