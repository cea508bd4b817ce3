"""Pictures decoded in order, with or without workers: same results, clean shutdown."""

import os
import signal
import threading
import time
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from condu_cli.data.pictures import decoding
from condu_cli.data.pictures.decoding import (
    Cropping,
    Decoded,
    Reading,
    Unreadable,
    can_be_sent,
    decoded,
    in_thread,
    in_workers,
    worth_starting,
)
from condu_cli.data.pictures.geometry import CropGeometry, EvaluationGeometry
from condu_cli.data.pictures.picture_files import StoredPicture

READING = Reading(12, (EvaluationGeometry(8), EvaluationGeometry(10)))


@pytest.fixture
def files(tmp_path):
    """Thirty pictures of noise; number 5 is text, number 20 is missing."""
    rng = np.random.default_rng(0)
    for index in range(30):
        values = rng.integers(0, 256, (14 + index, 20, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"{index:02d}.png")
    (tmp_path / "05.png").write_text("text")
    (tmp_path / "20.png").unlink()
    return [tmp_path / f"{index:02d}.png" for index in range(30)]


def plainly(answers) -> list[object]:
    return [
        answer
        if isinstance(answer, Unreadable)
        else (answer.kept.tolist(), [pixels.tolist() for pixels in answer.seen])
        for answer in answers
    ]


# Module level, so that a worker finds them.


def worker_state(_: int) -> tuple[int, bool]:
    """Return the process id and whether it ignores Ctrl-C."""
    return os.getpid(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def die_elsewhere(task: tuple[int, int]) -> int:
    """End the process, unless it is the caller's."""
    home, value = task
    if os.getpid() != home:
        os._exit(1)
    return value


@dataclass(frozen=True)
class Heap:
    """A store that holds its pictures in memory."""

    content: bytes

    def picture(self, _: int) -> Image.Image:
        return Image.new("RGB", (1, 1))


# Results


def test_answers_are_in_order_and_the_unreadable_are_named(files):
    answers = list(decoded(files, READING, workers=0))
    assert len(answers) == 30
    assert [i for i, answer in enumerate(answers) if isinstance(answer, Unreadable)] == [5, 20]
    assert answers[5].name == str(files[5])
    assert "not a picture" in answers[5].reason
    assert answers[5].reason == answers[5].error.message
    assert isinstance(answers[0], Decoded)
    assert answers[0].kept.shape == (12, 17, 3)
    assert [pixels.shape for pixels in answers[0].seen] == [(8, 8, 3), (10, 10, 3)]


def test_workers_give_the_same_answers(files):
    here = plainly(decoded(files, READING, workers=0))
    assert plainly(decoded(files, READING, workers=2)) == here
    assert plainly(decoded(files, READING)) == here


def test_nothing_is_kept_or_shown_that_was_not_asked_for(files):
    (answer,) = decoded(files[:1], Reading(None, keep=False))
    assert answer == Decoded(None, ())


def test_crops_of_pictures_that_are_not_kept_are_those_of_reduced_pictures(files):
    crops = Cropping(12, CropGeometry(8))((files[:2], [3, 4]))
    kept = [Image.fromarray(answer.kept) for answer in decoded(files[:2], READING)]
    for crop, picture, seed in zip(crops, kept, [3, 4], strict=True):
        assert np.array_equal(crop, np.asarray(CropGeometry(8)(picture, seed)))


def test_nothing_is_decoded_before_it_is_asked_for(files, monkeypatch):
    answers = decoded(files, READING, workers=0)
    next(answers)
    monkeypatch.setattr(decoding, "open_picture", lambda _: pytest.fail("decoded ahead"))
    answers.close()


# When workers are worthwhile


def test_workers_are_started_for_long_work_only(files, monkeypatch):
    monkeypatch.setattr(decoding, "available_cores", lambda: 4)
    assert worth_starting(0.1, files) == 0
    assert worth_starting(60, files) == 4
    monkeypatch.setattr(decoding, "available_cores", lambda: 1)
    assert worth_starting(60, files) == 0


def test_a_small_set_starts_no_worker(files, monkeypatch):
    monkeypatch.setattr(decoding, "in_workers", lambda *_: pytest.fail("workers were started"))
    assert len(list(decoded(files, READING))) == 30


def test_a_store_that_holds_its_pictures_in_memory_is_not_sent():
    small, large = (StoredPicture("a", Heap(bytes(size)), 0) for size in (10, 1 << 21))
    assert can_be_sent([small])
    assert not can_be_sent([small, large])


# Workers


def test_workers_are_other_processes_that_never_see_ctrl_c():
    states = list(in_workers(worker_state, range(4), 2))
    assert all(process != os.getpid() and shielded for process, shielded in states)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_if_a_worker_dies_the_work_is_done_here():
    tasks = [(os.getpid(), value) for value in range(8)]
    assert list(in_workers(die_elsewhere, tasks, 2)) == list(range(8))


def test_tasks_are_drawn_only_a_few_ahead():
    taken = []

    def endless():
        for number in range(10**9):
            taken.append(number)
            yield number

    with closing(in_workers(abs, endless(), 1)) as answers:
        assert [next(answers) for _ in range(3)] == [0, 1, 2]
        assert len(taken) <= 5


def test_closing_early_ends_the_workers():
    with closing(in_workers(worker_state, range(100), 1)) as answers:
        process, _ = next(answers)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and os.path.exists(f"/proc/{process}"):
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{process}")


def test_a_thread_works_one_task_ahead_in_order_and_ends():
    before = threading.active_count()
    with closing(in_thread(lambda value: value * 2, iter(range(100)))) as answers:
        assert [next(answers) for _ in range(3)] == [0, 2, 4]
    assert threading.active_count() == before


def test_an_error_in_a_task_reaches_the_caller():
    with pytest.raises(TypeError):
        list(in_workers(abs, ["text"], 1))


def test_pictures_that_are_costly_to_send_are_decoded_here(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "can_be_sent", lambda _: False)
    monkeypatch.setattr(decoding, "in_workers", None)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (found,) = decoded([tmp_path / "a.png"], READING, workers=2)
    assert isinstance(found, Decoded)
