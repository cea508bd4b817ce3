"""Starting the processes of a team."""

import os
import signal
import sys

import pytest

from condu_cli.train import launching
from condu_cli.train.launching import launch, launched_processes, without_option


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["learn", "--devices", "2", "--task", "x"], ["learn", "--task", "x"]),
        (["learn", "--devices=2", "--task", "x"], ["learn", "--task", "x"]),
        (["--json", "learn", "--device", "cpu"], ["--json", "learn", "--device", "cpu"]),
        (["learn", "--devices"], ["learn"]),
    ],
)
def test_the_processes_get_the_command_line_without_the_number(given, kept):
    assert without_option(given, "--devices") == kept


def test_without_a_launcher_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched_processes() == 1
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert launched_processes() == 3


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Let the processes run a short script instead of condu."""

    def use(text):
        file = tmp_path / "program.py"
        file.write_text(text)
        start = launching._start

        def start_it(command, environment, output):
            return start([sys.executable, str(file), *command[3:]], environment, output)

        monkeypatch.setattr(launching, "_start", start_it)

    return use


def test_every_process_knows_its_place(program, capfd):
    program(
        "import os, sys\n"
        "keys = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'ACCELERATE_USE_CPU')\n"
        "print(sys.argv[1:], [os.environ[k] for k in keys])\n"
        "sys.exit(0 if os.environ['MASTER_PORT'].isdigit() else 9)\n"
    )
    assert launch(["learn", "--task", "x"], 2, cpu=True) == 0
    # Only the first process prints.
    assert capfd.readouterr().out == "['learn', '--task', 'x'] ['0', '0', '2', 'true']\n"


def test_the_exit_code_is_that_of_the_process_that_failed(program, capfd):
    program(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    sys.exit('something is wrong here')\n"
        "time.sleep(0.5)\n"
    )
    assert launch([], 2, cpu=True) == 1
    assert "something is wrong here" in capfd.readouterr().err


def test_a_failed_process_is_not_waited_for_forever(program, monkeypatch):
    monkeypatch.setattr(launching, "GRACE_SECONDS", 0.5)
    program(
        "import os, sys, time\nsys.exit(15) if os.environ['RANK'] == '0' else time.sleep(600)\n"
    )
    assert launch([], 2, cpu=True) == 15


def test_a_signal_while_the_processes_start_leaves_none_behind(program, monkeypatch):
    program("import os, time\ntime.sleep(600 if os.environ['RANK'] == '0' else 0)\n")
    monkeypatch.setattr(launching, "GRACE_SECONDS", 0.5)
    start, started = launching._start, []

    def start_and_be_stopped(*arguments):
        process = start(*arguments)
        started.append(process)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(launching, "_start", start_and_be_stopped)
    before = signal.getsignal(signal.SIGTERM)
    assert launch([], 2, cpu=True) != 0
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_process_that_cannot_start_takes_the_others_along(program, monkeypatch):
    program("import time\ntime.sleep(600)\n")
    start, started = launching._start, []

    def only_one(*arguments):
        if started:
            raise OSError("no more processes")
        started.append(start(*arguments))
        return started[0]

    monkeypatch.setattr(launching, "_start", only_one)
    with pytest.raises(OSError, match="no more processes"):
        launch([], 2, cpu=True)
    assert started[0].poll() is not None


def test_ctrl_c_means_in_the_processes_what_it_means_here(program, capfd):
    program("import signal\nprint(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)\n")
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert launch([], 1, cpu=True) == 0
    assert capfd.readouterr().out == f"{ignored}\n"
