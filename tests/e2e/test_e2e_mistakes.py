"""What goes wrong in daily use: one clear line, a hint, the right exit code, nothing changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from condu_process import program_here

from condu_cli.main import main
from condu_cli.registry.repository import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from condu_process import Condu, Done

QUICK = ("--iterations", "3")


@pytest.fixture(scope="module")
def pictures(make_pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"), ("blue", "red"), 8, 24)


@pytest.fixture(scope="module")
def learned(condu: Condu, pictures: Path) -> Condu:
    """A registry with one task, learned in this process: importing torch is what takes long."""
    data = ("--data", str(pictures), "--registry", str(condu.registry))
    with pytest.raises(SystemExit) as left:
        main(["learn", "--task", "colours", *data, "--base", "tiny", *QUICK])
    assert left.value.code == 0
    return condu


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file of a registry by its hash; the lock and SQLite's own side files left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("lock", "condu.sqlite-"))
    }


@pytest.fixture
def in_this_process(
    learned: Condu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    return program_here(learned.folder, monkeypatch, capsys)


def assert_refused(done: Done | subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    hints = [line for line in done.stderr.splitlines() if line.startswith("hint: ")]
    assert done.returncode == code, done.stderr
    assert len(errors) == 1, done.stderr
    assert len(hints) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in errors[0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("predict", "missing.jpg"), 15, ("missing.jpg", "no such file")),
        (("predict", "text.jpg"), 15, ("text.jpg", "not a picture")),
        (("predict", "cut.png"), 15, ("cut.png",)),
        (("predict", "empty"), 15, ("empty", "no pictures")),
        (("predict", "blue.png", "--task", "nope"), 4, ("nope",)),
        (("predict", "blue.png", "--labels", "one"), 2, ("--labels",)),
        (("evaluate", "--task", "nope"), 4, ("nope",)),
        (("show", "nope"), 4, ("nope",)),
        (("rollback", "ffffffff"), 4, ("ffffffff",)),
        (("rollback", "-n", "9"), 2, ()),
        (("rollback", "--undo"), 2, ()),
        (("learn", "--task", "colours", "--data", "pictures"), 2, ("colours", "already")),
        (("learn", "--task", "../x", "--data", "pictures"), 2, ("../x",)),
        (("learn", "--task", "new", "--data", "empty"), 15, ("empty",)),
        (("learn", "--task", "new", "--data", "missing"), 15, ("missing",)),
        (("learn", "--task", "new", "--data", "text.jpg"), 15, ("text.jpg",)),
        (("learn", "--task", "new", "--data", "one-class"), 15, ("one class",)),
        (("learn", "--task", "new", "--data", "broken"), 15, ("cannot be read",)),
        (("learn", "--task", "new"), 15, ("new",)),
        (("learn", "--task", "new", "--data", "pictures", "--template", "x"), 2, ("template",)),
        (("learn", "--task", "new", "--data", "pictures", "--base", "mini"), 2, ("tiny",)),
        (("init",), 2, ("already",)),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(
    in_this_process: Callable[..., Done],
    learned: Condu,
    pictures: Path,
    make_pictures: Callable[..., Path],
    arguments: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
) -> None:
    prepare(learned.folder, pictures, make_pictures)
    before = fingerprint(learned.registry)
    assert_refused(in_this_process(*arguments), code, *words)
    assert fingerprint(learned.registry) == before


def prepare(folder: Path, pictures: Path, make_pictures: Callable[..., Path]) -> None:
    """The files for the mistakes."""
    blue = next((pictures / "blue").iterdir()).read_bytes()
    (folder / "text.jpg").write_text("this is not a picture")
    (folder / "cut.png").write_bytes(blue[:-30])
    (folder / "blue.png").write_bytes(blue)
    (folder / "empty").mkdir(exist_ok=True)
    make_pictures(folder / "pictures")
    make_pictures(folder / "one-class", ("blue",))
    make_pictures(folder / "broken")
    for number in range(20):  # more than are skipped by default
        (folder / "broken" / "red" / f"bad{number}.png").write_text("broken")


def test_a_registry_path_that_is_a_file_is_refused(
    in_this_process: Callable[..., Done], learned: Condu
) -> None:
    file = learned.folder / "file"
    file.write_text("mine")
    for arguments in (("ls",), ("init", "--base", "tiny"), ("learn", "--task", "shapes")):
        done = in_this_process(*arguments, "--registry", file)
        assert_refused(done, 10, "file")
    assert file.read_text() == "mine"


def test_some_unreadable_inputs_do_not_hide_the_others(
    in_this_process: Callable[..., Done], pictures: Path
) -> None:
    done = in_this_process("predict", pictures / "blue", "missing.jpg")
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 8
    assert "1 of 9 inputs failed" in done.stderr


def test_standard_input_is_a_list_of_paths_or_a_picture(learned: Condu, pictures: Path) -> None:
    paths = "\n".join(str(path) for path in sorted((pictures / "red").iterdir()))
    done = learned.run("predict", "-", stdin=paths)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[expert: colours") == 8


def test_ctrl_c_during_training_keeps_it(condu: Condu, pictures: Path, tmp_path: Path) -> None:
    registry = tmp_path / "interrupted"
    command = [sys.executable, "-m", "condu_cli", "learn", "--task", "colours", "--json"]
    options = ["--base", "tiny", "--iterations", "100000", "--registry", str(registry)]
    with subprocess.Popen(
        [*command, *options, "--data", str(pictures)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A runner in the background ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"training"' in line:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert '"code": 130' in errors
    assert f"--resume --registry {registry} continues from there" in errors
    assert len(list((registry / "runs").iterdir())) == 1


def test_a_second_writer_is_told_who_holds_the_lock(learned: Condu) -> None:
    holder = (
        "import sys, time; from pathlib import Path\n"
        "from condu_cli.registry.repository import Registry\n"
        "registry = Registry.open(Path(sys.argv[1]))\n"
        "with registry.lock('a long commit'):\n"
        "    print('held', flush=True); time.sleep(120)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(learned.registry)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        started = time.monotonic()
        done = learned.run("rollback")
        readers = learned.run("ls")
        process.kill()
    assert_refused(done, 11, "a long commit")
    assert time.monotonic() - started < 100
    assert readers.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["bases"], ["bases", "--json"], ["--help"]])
def test_results_that_cannot_be_written_are_not_condus_fault(arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "condu_cli", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "the output cannot be written: No space left" in done.stderr
    assert "unexpected" not in done.stderr


def test_help_may_be_read_by_a_program_that_stops_reading():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        done = subprocess.run(
            [sys.executable, "-m", "condu_cli", "--help"],
            stdout=broken,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("mode", [(), ("--json",)])
def test_a_change_succeeds_whatever_becomes_of_its_report(
    learned: Condu, tmp_path: Path, mode: tuple[str, ...]
) -> None:
    registry = shutil.copytree(learned.registry, tmp_path / "registry")
    command = [sys.executable, "-m", "condu_cli", "tag", "good", "--registry", str(registry), *mode]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=full, check=False)
    assert done.returncode == 0
    assert Registry.open(registry).history().tags.keys() == {"good"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_exit_code_does_not_depend_on_stderr(tmp_path: Path) -> None:
    nothing = ("ls", "--registry", str(tmp_path / "nothing"))
    for mode in ((), ("--json",)):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "condu_cli", *nothing, *mode]
            assert subprocess.run(command, stderr=full, check=False).returncode == 10


def test_a_home_that_cannot_be_written_to_is_no_obstacle(pictures: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.touch()  # a file, in which not even root makes folders
    unset = ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | {"HOME": str(home)}
    registry = ("--registry", str(tmp_path / "registry"))
    task = ("--task", "colours", "--data", str(pictures), "--base", "tiny", "--quick")
    for arguments in (("learn", *task), ("predict", str(pictures / "red"))):
        done = subprocess.run(
            [sys.executable, "-m", "condu_cli", *arguments, *registry],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stderr


def test_a_closed_output_is_not_a_crash():
    command = f"exec {sys.executable} -m condu_cli bases >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert "error" not in done.stderr
