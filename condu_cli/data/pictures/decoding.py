"""Pictures decoded in order, here or ahead of time by worker processes.

Without torch: a worker imports this module and little else. It is started afresh (`spawn`), never
forked: torch and numba run threads, a fork beside threads may hang, and Python 3.12 and later
warn of it. Two such workers answered after 0.3 s on idle cores; where the program's main module
imported torch, and so the workers with it, after nine (2026-11-22, 2 cores, Python 3.11).
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
"""Workers are started where they save more: starting and ending two takes 0.4 s where cores are
idle, 1 s and more where something else computes (2026-11-22, 2 cores)."""
PILOT = 16
"""Decode this many pictures here first, to measure how long one takes."""
CHUNK = 8
"""Pictures that a worker is given at once."""
SENDABLE_BYTES = 1 << 20
"""A store larger than this when it is sent holds its pictures in memory: no work for workers."""

Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Geometry(Protocol):
    """Scales and cuts a picture; it can be pickled."""

    def __call__(self, image: Image.Image, /) -> Image.Image:
        """The scaled and cut picture."""


@dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be read, and why, as one line that names it."""

    name: str
    reason: str
    error: DataError = field(compare=False, repr=False)


@dataclass(frozen=True)
class Decoded:
    """A picture as it is kept, where that was asked for, and as each of some geometries sees it."""

    kept: Pixels | None
    seen: tuple[Pixels, ...]


@dataclass(frozen=True)
class Reading:
    """How to read a picture: what to keep of it, and what to show of it."""

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
    """How to make training crops of pictures that are not kept."""

    shorter_side: int | None
    geometry: CropGeometry

    def __call__(self, task: tuple[Sequence[Picture], Sequence[int]]) -> list[Pixels]:
        """One crop per picture, each from its own seed; raises DataError as `open_picture`."""
        pictures, seeds = task
        return [
            np.asarray(self.geometry(reduced(open_picture(picture), self.shorter_side), seed))
            for picture, seed in zip(pictures, seeds, strict=True)
        ]


def decoded(
    pictures: Sequence[Picture], reading: Reading, workers: int | None = None
) -> Generator[Decoded | Unreadable, None, None]:
    """Every picture in order; `workers` None: as many processes as pay off, 0: none."""
    pilot = pictures[:PILOT] if workers is None else ()
    started = time.perf_counter()
    first = deque(reading(pilot))
    seconds = time.perf_counter() - started
    while first:
        yield first.popleft()  # held here no longer than there
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
    """How many workers to start for so much decoding: 0 where they would not pay off."""
    cores = available_cores()
    saved = seconds * (1 - 1 / cores)
    return cores if saved > START_SECONDS and can_be_sent(pictures) else 0


def available_cores() -> int:
    """Cores that this process may use, at most `MAX_WORKERS`."""
    allowed = getattr(os, "sched_getaffinity", None)
    return min(MAX_WORKERS, len(allowed(0)) if allowed else os.cpu_count() or 1)


def can_be_sent(pictures: Sequence[Picture]) -> bool:
    """Whether all the pictures are on disk, so that a worker needs no more than their names."""
    stores = {id(p.store): p.store for p in pictures if isinstance(p, StoredPicture)}
    return all(len(pickle.dumps(store)) <= SENDABLE_BYTES for store in stores.values())


def in_workers(
    function: Callable[[Task], Answer], tasks: Iterable[Task], workers: int
) -> Generator[Answer, None, None]:
    """The answers of worker processes to tasks, in order; close it to end the processes.

    The tasks are taken one by one, a few ahead of time. If a worker dies, its tasks and all that
    follow are done here.
    """
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    # Twice as many as there are workers: none waits while an answer is being used.
    return _ahead(executor, function, tasks, 2 * workers)


def in_thread(
    function: Callable[[Task], Answer], tasks: Iterable[Task]
) -> Generator[Answer, None, None]:
    """The answers of one thread beside this one to tasks, in order, one ahead of time.

    Measured on two busy cores (2026-11-22): 7 % slower to 30 % faster than doing them in between;
    where a GPU trains, the cores are idle and it hides them.
    """
    return _ahead(ThreadPoolExecutor(1), function, tasks, 2)


def _ahead(
    executor: Executor, function: Callable[[Task], Answer], tasks: Iterable[Task], depth: int
) -> Generator[Answer, None, None]:
    def submit(task: Task) -> tuple[Task, Future[Answer] | None]:
        try:
            with _interrupts_kept_from_children():
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
def _interrupts_kept_from_children() -> Iterator[None]:
    """Processes started inside never see Ctrl-C: this one does, and ends them.

    Blocked rather than ignored, so that one that comes just now is late, not lost. Windows has
    no such thing; there a worker may say that it was interrupted.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
