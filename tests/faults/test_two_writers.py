"""Several processes on one registry: one writes, other writers are told, readers never notice."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tiny_registry as tiny

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import LockedError
from condu_cli.workflows.sessions.committing import resume_expert
from condu_cli.workflows.sessions.verification import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from condu_cli.registry.repository import Registry

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
ROUNDS = 6
SEED = 20260


class Started:
    """A process of `writers.py` that is ready."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, HERE / "writers.py", *map(str, arguments)],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> Started:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", self.process.communicate()[1]
        return self

    def ask(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def results(self) -> list[Any]:
        out, err = self.process.communicate(timeout=600)
        assert self.process.returncode == 0, err
        assert not err
        return [json.loads(line) for line in out.splitlines()]

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return tiny.create(tmp_path / "registry", 1)


@pytest.mark.slow
def test_of_two_writers_one_commits_and_the_other_is_told(registry: Registry) -> None:
    with Started("commit", registry.path) as left, Started("commit", registry.path) as right:
        writers = {"left": left.wait_until_ready(), "right": right.wait_until_ready()}
        for number in range(ROUNDS):
            before = registry.head()
            assert before is not None
            for name, writer in writers.items():
                writer.ask(f"{name}{number} {before.id}")
            results = {f"{name}{number}": writer.answer() for name, writer in writers.items()}
            (winner,) = [task for task, result in results.items() if "session" in result]
            (loser,) = [task for task in results if task != winner]
            _assert_told(results[loser], loser)
            head = registry.head()
            assert head is not None
            assert (head.id, head.parent) == (results[winner]["session"], before.id)
            _assert_nothing_trained_is_lost(registry, loser)
    assert not verify(registry).problems


def _assert_told(result: Any, task: str) -> None:
    assert (result["error"], result["code"]) == ("HeadMovedError", 11)
    assert "HEAD moved from" in result["message"]
    assert f"condu learn --task {task} --resume" in result["hint"]


def _assert_nothing_trained_is_lost(registry: Registry, task: str) -> None:
    (waiting,) = registry.waiting.all()
    assert waiting.task == task
    trained = tiny.expert(registry, task).delta
    assert {n: waiting[f"delta/{n}"].tobytes() for n in trained} == {
        name: values.tobytes() for name, values in trained.items()
    }
    done = resume_expert(registry, waiting, command="learn --resume")
    assert done is not None
    assert done.session == registry.head()
    assert [entry.name for entry in done.session.entries][-1] == task
    assert not registry.waiting.all()


@pytest.fixture
def holder(registry: Registry) -> Iterator[Started]:
    with Started("hold", registry.path, "learn --task pets") as process:
        yield process.wait_until_ready()


def test_a_lock_timeout_names_the_holder(registry: Registry, holder: Started) -> None:
    with pytest.raises(LockedError) as caught, registry.lock("forget birds", timeout=0.1):
        pass
    assert re.search(
        rf"locked by 'learn --task pets' \(process {holder.process.pid} on "
        rf"{re.escape(socket.gethostname())}\) since \d{{4}}-\d\d-\d\dT",
        caught.value.message,
    )
    assert caught.value.exit_code == 11


def test_a_kept_expert_waits_where_the_lock_is_not_free(
    registry: Registry, holder: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("condu_cli.workflows.sessions.committing.LOCK_SECONDS", 0.1)
    with pytest.raises(LockedError, match="learn --task pets") as caught:
        tiny.learn(registry, "birds")
    assert "condu learn --task birds --resume" in hint_of(caught.value)
    holder.process.kill()
    holder.process.wait()
    _assert_nothing_trained_is_lost(registry, "birds")


def test_a_killed_holder_frees_the_lock_at_once(registry: Registry, holder: Started) -> None:
    holder.process.kill()
    holder.process.wait()
    started = time.perf_counter()
    with registry.lock("forget birds", timeout=0):
        assert time.perf_counter() - started < 1
    assert registry.head() is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("readers", "seconds"), [(4, 0), pytest.param(20, 6, marks=pytest.mark.thorough)]
)
def test_readers_never_notice_a_writer(
    registry: Registry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    readers: int,
    seconds: int,
) -> None:
    tiny.learn(registry, "task1")
    tiny.learn(registry, "task2")
    stop = tmp_path / "stop"
    with (
        Started("churn", registry.path, seconds, SEED) as writer,
        Started("read", registry.path, readers, stop) as reading,
    ):
        reading.wait_until_ready()
        (written,) = writer.wait_until_ready().results()
        stop.touch()
        results = reading.results()
    assert len(results) == readers
    with capsys.disabled():
        passes = sum(result["passes"] for result in results)
        print(f"\n{readers} readers, {passes} passes beside {written['counts']}", end="")
    for result in results:
        assert result["passes"]
        for session, states in result["found"].items():
            assert states == [written["states"][session]]
    assert all(written["counts"].values())
    assert len({session for result in results for session in result["found"]}) > 2
    assert not verify(registry).problems
