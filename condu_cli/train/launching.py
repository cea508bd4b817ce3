"""Start the processes of a team on this machine, for `--devices N`.

`accelerate launch` and `torchrun` can also start the processes, even across machines. For a single
machine, torch's launcher was tried instead of this module (torch 2.15) and rejected:

- `torch.distributed.run` always exits with 1, whether the code should be 15 for a data set or 130
  for an interruption, and prints a traceback where condu prints one line.
- `torch.distributed.elastic.multiprocessing.start_processes` does return the exit codes. But once
  one process fails it sends SIGTERM to the others, which process 0 must take for the user's: it
  reports an interrupted training and hides the error. Each process gets its own session, so Ctrl-C
  does not reach it. Passing on signals, the environment and choosing whose output to show would
  remain here, and importing it takes two seconds.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

POLL_SECONDS = 0.2
GRACE_SECONDS = 30.0
"""How long the other processes may take to end once one has failed."""


def launched_processes() -> int:
    """Return the number of processes that a launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def without_option(arguments: Sequence[str], name: str) -> list[str]:
    """Return the command line without an option and its value, in the form `-o V` or `-o=V`."""
    kept: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument == name:
            next(given, None)
        elif not argument.startswith(f"{name}="):
            kept.append(argument)
    return kept


def launch(arguments: Sequence[str], processes: int, *, cpu: bool) -> int:
    """Run `condu ARGUMENTS` in several processes; return their exit code.

    Process 0 prints for all. The stderr of another is shown only if it failed and process 0 did
    not.
    """
    command = [sys.executable, "-m", "condu_cli", *arguments]
    port = _free_port()
    outputs = [tempfile.TemporaryFile() for _ in range(processes - 1)]  # noqa: SIM115
    running: list[subprocess.Popen[bytes]] = []
    try:
        with _signals_left_to(running):
            for rank, output in enumerate([None, *outputs]):
                environment = _environment(rank, processes, port, cpu=cpu)
                running.append(_start(command, environment, output))
            codes = _wait(running)
        if not codes[0] and any(codes):
            _show(outputs, codes)
        return next((code for code in codes if code), 0)
    finally:
        for process in running:  # no process outlives this one
            process.kill()
            process.wait()
        for output in outputs:
            output.close()


def _start(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start a process; `output`, if given, gets its stderr, and its stdout is discarded."""
    if output is None:
        return subprocess.Popen(command, env=environment)  # noqa: S603 - this very program
    return subprocess.Popen(  # noqa: S603 - this very program
        command, env=environment, stdout=subprocess.DEVNULL, stderr=output
    )


def _environment(rank: int, processes: int, port: int, *, cpu: bool) -> dict[str, str]:
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    own = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if cpu:
        own["ACCELERATE_USE_CPU"] = "true"
    # More threads than cores would slow down all processes several times over.
    return {"OMP_NUM_THREADS": threads, **os.environ, **own}


@contextmanager
def _signals_left_to(running: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Let the processes handle Ctrl-C and SIGTERM.

    Ctrl-C reaches them directly; SIGTERM, which only this process gets, is passed on. The handlers
    are in place before the first process starts, so that a signal in between leaves none behind.
    """

    def pass_on(number: int, _: FrameType | None) -> None:
        for process in running:
            process.send_signal(number)

    def do_nothing(number: int, _: FrameType | None) -> None:
        """Ignore the signal with a function: children would inherit SIG_IGN."""

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on)}
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, do_nothing)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(running: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all processes, or until a grace period after the first failure."""
    while all(process.poll() in (None, 0) for process in running):
        if all(process.poll() == 0 for process in running):
            break
        time.sleep(POLL_SECONDS)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(p.poll() is None for p in running) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    # A process that is still running failed because of another, and will be killed.
    return [process.poll() or 0 for process in running]


def _show(outputs: Sequence[IO[bytes]], codes: Sequence[int]) -> None:
    for output, code in zip(outputs, codes[1:], strict=True):
        if code:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace"))
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
