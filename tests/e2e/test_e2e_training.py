"""Training as users do it: interrupted, in several processes, on messy folders, by mistake."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from condu_process import program_here
from PIL import Image

from condu_cli.backbone.base_models import load_base
from condu_cli.registry.repository import Registry
from condu_cli.workflows.learning.unfinished import load_unfinished
from condu_cli.workflows.opening.workspace import new_config
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.states import open_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from condu_process import Done

ITERATIONS = 25
RECIPE = (
    "--iterations",
    str(ITERATIONS),
    "--lr",
    "1e-4",
    "--batch-size",
    "8",
    "--precision",
    "float32",
)
NEW = ("--base", "tiny")
TWO = ("--devices", "2", "--device", "cpu")
LINEAR_END = "visual.proj"
# What `accelerate launch --multi_gpu` runs; on its own it needs GPUs to start several processes.
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "condu_cli")
PATIENCE = 120  # seconds; ten times what anything here takes


@dataclass(frozen=True)
class Trained:
    """A registry with one task, and the lines that its training printed."""

    registry: Path
    lines: list[dict[str, Any]]

    @property
    def losses(self) -> dict[int, float]:
        """The reported losses by iteration."""
        return {
            line["done"]: line["loss"] for line in self.lines if line.get("event") == "training"
        }


@pytest.fixture(scope="module")
def pictures(make_pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"), ("blue", "red"), 8, 24)


@pytest.fixture(scope="module")
def straight(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """`straight(method)`: an undisturbed training, run once."""
    done: dict[str, Trained] = {}

    def train(method: str) -> Trained:
        if method not in done:
            registry = place_for(tmp_path_factory.mktemp(method), method)
            done[method] = finished(Process(registry, *learning(pictures)))
        return done[method]

    return train


@pytest.fixture(scope="module")
def by_two(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same training in two processes."""
    registry = tmp_path_factory.mktemp("two") / "registry"
    return finished(Process(registry, *learning(pictures), *TWO))


class Process:
    """The program in a session of its own, to be disturbed while it runs."""

    def __init__(self, registry: Path, *arguments: object, launcher: tuple[str, ...] = ()) -> None:
        self.registry = registry
        module = launcher or ("condu_cli",)
        self.process = subprocess.Popen(
            [sys.executable, "-m", *module, *map(str, arguments)],
            env=environment(registry),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A runner in the background ignores Ctrl-C, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait_until_it_has_saved(self, times: int = 3) -> None:
        """Wait until its training has been saved this often: it is then in the middle."""
        seen: set[Path] = set()
        deadline = time.monotonic() + PATIENCE
        while len(seen) < times:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "it never saves"
            seen |= set((self.registry / "runs").glob("*.safetensors"))
            time.sleep(0.005)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr; no process of it may be left."""
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
            with pytest.raises(ProcessLookupError):
                os.killpg(self.process.pid, 0)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.communicate()
        return self.process.returncode, out, err


def environment(registry: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CONDU_")}
    kept.pop("FORCE_COLOR", None)
    own = {"CONDU_REGISTRY": str(registry), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **own, "HF_HUB_OFFLINE": "1"}


def place_for(folder: Path, method: str) -> Path:
    """Where a task is learned: no registry yet, or an empty LoRA registry."""
    path = folder / "registry"
    if method == "lora":
        Registry.create(path, new_config(load_base("tiny"), method))
    return path


def learning(pictures: Path) -> tuple[object, ...]:
    return ("learn", "--task", "colours", "--data", pictures, "--json", *RECIPE, *NEW)


def finished(process: Process) -> Trained:
    code, out, err = process.end()
    assert code == 0, err
    return Trained(process.registry, [json.loads(line) for line in out.splitlines()])


def resumed(registry: Path, *options: object) -> None:
    finished(Process(registry, "learn", "--resume", "--json", *options))
    assert list((registry / "runs").iterdir()) == []


def blobs(registry: Path) -> tuple[object, ...]:
    """What the only task's session holds, by the hashes of its bytes."""
    head = Registry.open(registry).head()
    assert head is not None
    entry = head.entry("colours")
    return head.shared, entry.part, entry.record["rescaler"], entry.expert.prototypes


def delta(registry: Path) -> dict[str, Any]:
    """The only task's delta, as decoded."""
    opened = Registry.open(registry)
    head = opened.head()
    assert head is not None
    state = open_state(opened, head)
    (part,) = state.parts
    return dict(codec_for(opened.config, head).decode(state.shared, part))


def assert_one_error(err: str, *words: str) -> None:
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    hints = [line for line in err.splitlines() if line.startswith("hint: ")]
    assert (len(errors), len(hints)) == (1, 1), err
    assert "Traceback" not in err
    for word in words:
        assert word in errors[0] + hints[0]


# Interrupted


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.thorough)])
def test_a_killed_training_goes_on_bit_for_bit(
    straight: Callable[[str], Trained], pictures: Path, tmp_path: Path, method: str
) -> None:
    process = Process(place_for(tmp_path, method), *learning(pictures), "--save-every", "1")
    process.wait_until_it_has_saved()
    process.signal(signal.SIGKILL)
    assert process.end()[0] == -signal.SIGKILL
    registry = Registry.open(process.registry)
    assert registry.head() is None
    kept = [load_unfinished(registry, file).iteration for file in registry.runs.all()]
    assert kept
    assert all(0 < iteration < ITERATIONS for iteration in kept)

    resumed(process.registry)
    assert blobs(process.registry) == blobs(straight(method).registry)
    ours, theirs = delta(process.registry), delta(straight(method).registry)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.thorough), signal.SIGTERM]
)
def test_a_training_that_is_asked_to_stop_is_kept_and_goes_on(
    straight: Callable[[str], Trained], pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    arguments = [argument for argument in learning(pictures) if argument != "--json"]
    process = Process(tmp_path / "registry", *arguments, "--save-every", "1")
    process.wait_until_it_has_saved()
    process.signal(number)
    code, out, err = process.end()
    assert (code, out) == (130, "")
    assert_one_error(err, "stopped after iteration", "learn --task colours --resume")

    resumed(process.registry)
    assert blobs(process.registry) == blobs(straight("full").registry)


# Two processes


@pytest.mark.slow
def test_two_processes_learn_what_one_would(
    straight: Callable[[str], Trained], by_two: Trained
) -> None:
    assert_the_same_training(by_two, straight("full"))


@pytest.mark.slow
@pytest.mark.thorough
def test_another_launcher_may_start_the_processes(
    straight: Callable[[str], Trained], pictures: Path, tmp_path: Path
) -> None:
    arguments = (*learning(pictures), "--device", "cpu")
    process = Process(tmp_path / "registry", *arguments, launcher=TORCHRUN)
    assert_the_same_training(finished(process), straight("full"))


def assert_the_same_training(team: Trained, alone: Trained) -> None:
    assert_one_speaks(team)
    expected = alone.lines[-1]
    assert team.lines[-1]["final_loss"] == pytest.approx(expected["final_loss"], abs=1e-4)
    both = team.losses.keys() & alone.losses.keys()  # they are reported once a second
    assert max(both) == expected["iterations"]
    assert {i: team.losses[i] for i in both} == pytest.approx(
        {i: alone.losses[i] for i in both}, abs=1e-4
    )

    deltas = delta(team.registry), delta(alone.registry)
    assert deltas[0].keys() == deltas[1].keys()
    one_only = 0
    for name in deltas[0]:
        ours, theirs = (felt(name, values[name]) for values in deltas)
        both = (ours != 0) & (theirs != 0)
        # The linear end is a solution for tuned features, which magnifies their rounding.
        close = 1e-4 * np.abs(theirs).max() if name == LINEAR_END else 1e-5
        assert np.allclose(ours[both], theirs[both], atol=close), name
        one_only += np.count_nonzero((ours != 0) != (theirs != 0))
    # Rounding decides which of two almost equal values is trimmed.
    assert one_only <= 0.01 * sum(values.size for values in deltas[0].values())


def felt(name: str, values: Any) -> Any:
    """Without the biases of attention's keys, which softmax ignores.

    Their gradient is only rounding, of which AdamW makes steps as large as any.
    """
    if not name.endswith("attn.in_proj_bias"):
        return values
    queries, _, products = np.split(np.asarray(values), 3)
    return np.concatenate([queries, products])


def assert_one_speaks(team: Trained) -> None:
    """One stream of events that ends in one summary, of the only session."""
    events = [(line["event"], line["done"]) for line in team.lines[:-1]]
    assert len(set(events)) == len(events)
    head = Registry.open(team.registry).head()
    assert head is not None
    assert (team.lines[-1]["session"], head.parent) == (head.id, None)
    assert head.entry("colours").expert.training["processes"] == 2


@pytest.mark.slow
@pytest.mark.thorough
def test_a_team_that_is_asked_to_stop_is_kept_and_goes_on(
    by_two: Trained, pictures: Path, tmp_path: Path
) -> None:
    arguments = [argument for argument in learning(pictures) if argument != "--json"]
    process = Process(tmp_path / "registry", *arguments, *TWO, "--save-every", "1")
    process.wait_until_it_has_saved()
    process.signal(signal.SIGTERM)
    code, out, err = process.end()
    assert (code, out) == (130, "")
    assert_one_error(err, "stopped after iteration", "--resume")

    resumed(process.registry, *TWO)
    assert blobs(process.registry) == blobs(by_two.registry)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake", ["one class", pytest.param("unreadable", marks=pytest.mark.thorough)]
)
def test_an_error_in_a_team_ends_all_of_it(
    make_pictures: Callable[..., Path], tmp_path: Path, mistake: str
) -> None:
    """All processes see that there is one class; only the first one reads pictures."""
    classes = ("blue",) if mistake == "one class" else ("blue", "red")
    data = make_pictures(tmp_path / "data", classes)
    if mistake == "unreadable":
        for picture in (data / "red").iterdir():
            picture.write_text("broken")
    process = Process(tmp_path / "registry", "learn", "--task", "new", "--data", data, *NEW, *TWO)
    code, out, err = process.end()
    assert (code, out) == (15, "")
    assert_one_error(err, "only one class" if mistake == "one class" else "cannot be read")
    assert not process.registry.exists()


# In this process


@pytest.fixture
def program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    return program_here(tmp_path, monkeypatch, capsys)


# A messy folder

BROKEN = ("cut.png", "empty.jpg", "huge.png", "text.jpg")


@pytest.fixture
def messy(make_pictures: Callable[..., Path], tmp_path: Path) -> Path:
    """A realistic data set: 16 plain pictures, 7 strange ones, and 4 broken ones."""
    data = tmp_path / "messy"
    make_pictures(data / "train", per_class=8)
    make_pictures(data / "test", per_class=2)
    add_strange(data / "train" / "blue", data / "train" / "red")
    add_broken(data / "train" / "red")
    (data / "train" / "nothing").mkdir()
    (data / "train" / ".DS_Store").write_text("hidden")
    (data / "train" / "blue" / "._00.png").write_text("hidden")
    (data / "train" / "blue" / "notes.txt").write_text("not a picture, and not called one")
    Image.new("RGB", (16, 16)).save(data / "cover.png")
    return data


def add_strange(blue: Path, red: Path) -> None:
    """Pictures of every kind that decoders treat specially."""
    colour = Image.new("RGB", (24, 16), (40, 60, 220))
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: turn it to the right
    colour.save(blue / "turned.jpg", exif=turned)
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(blue / "sixteen-bits.png")
    colour.convert("P").save(blue / "palette.png")
    colour.convert("RGBA").save(blue / "transparent.png")
    colour.convert("CMYK").save(red / "printed.jpg")
    frames = [Image.new("RGB", (16, 16), (200, shade, 40)) for shade in (20, 40, 60)]
    frames[0].save(red / "animated.gif", save_all=True, append_images=frames[1:])
    colour.save(red / "a-png.jpg", format="PNG")


def add_broken(folder: Path) -> None:
    whole = (folder / "00.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "huge.png").write_bytes(huge_png())
    (folder / "text.jpg").write_text("this is not a picture")


def huge_png() -> bytes:
    """The header of a picture of 3.6 billion pixels, with almost no data."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


QUICK = ("--base", "tiny", "--iterations", "2")


def test_a_messy_folder_is_learned_and_what_is_left_out_is_named(
    program: Callable[..., Done], messy: Path
) -> None:
    done = program("learn", "--task", "messy", "--data", messy, *QUICK, "--json")
    (summary,) = done.records
    assert (summary["images"], summary["classes"]) == (16 + 7, 2)
    assert len(summary["unreadable"]) == len(BROKEN)
    for name, reason in zip(BROKEN, sorted(summary["unreadable"]), strict=True):
        assert name in reason


def test_a_person_reads_what_is_left_out_of_a_messy_folder(
    program: Callable[..., Done], messy: Path
) -> None:
    done = program("learn", "--task", "messy", "--data", messy, *QUICK)
    assert done.returncode == 0, done.stderr
    (warning,) = (line for line in done.stderr.splitlines() if "could not be read" in line)
    assert warning.startswith("warning: skipped 4 pictures that could not be read: ")
    assert all(name in warning for name in BROKEN)
    assert "skipped classes without pictures: nothing" in done.stderr
    (ignored,) = (line for line in done.stderr.splitlines() if "not pictures of a class" in line)
    assert "cover.png" in ignored
    assert "notes.txt" in ignored
    assert "._00.png" not in done.stderr
    assert (
        "from 22 pictures (5 more held out) of 2 classes" in done.stderr
    )  # none has been opened yet


def test_a_dry_run_measures_on_a_messy_folder_too(
    program: Callable[..., Done], messy: Path, tmp_path: Path
) -> None:
    (plan,) = program(
        "learn", "--task", "messy", "--data", messy, *QUICK, "--dry-run", "--json"
    ).records
    assert plan["train_images"] + plan["validation_images"] == 16 + 7 + len(BROKEN)
    assert not (tmp_path / "registry").exists()


# Refused before anything is loaded

MISTAKES = {
    "one class": (("--data", "one"), 15, "only one class (blue)"),
    "no pictures": (("--data", "none"), 15, "no pictures"),
    "no folder": (("--data", "missing"), 15, "missing"),
    "a wrong list of names": (("--data", "two", "--class-names", "names.txt"), 15, "3 class names"),
    "fewer than classes": (
        ("--data", "two", "--limit", "1"),
        2,
        "--limit must be at least the 2 classes",
    ),
    "no header": (("--data", "list.csv"), 15, "the header has no column 'path'"),
    "epochs and iterations": (("--data", "two", "--epochs", "2"), 2, "--epochs or --iterations"),
    "all held out": (("--data", "two", "--validation-share", "1"), 2, "--validation-share must be"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_before_anything_is_loaded(
    program: Callable[..., Done],
    make_pictures: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mistake: str,
) -> None:
    make_mistakes(tmp_path, make_pictures)
    forbid(monkeypatch, "condu_cli.workflows.opening.registry_kind.load_base")
    forbid(monkeypatch, "condu_cli.data.pictures.picture_files.opened")
    before = sorted(tmp_path.rglob("*"))
    options, code, words = MISTAKES[mistake]
    done = program("learn", "--task", "new", *QUICK, *options)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert_one_error(done.stderr, words)
    assert sorted(tmp_path.rglob("*")) == before


def make_mistakes(folder: Path, make_pictures: Callable[..., Path]) -> None:
    make_pictures(folder / "one", ("blue",), 2)
    make_pictures(folder / "two", ("blue", "red"), 2)
    (folder / "none").mkdir()
    (folder / "names.txt").write_text("blue\nred\ngreen\n")
    (folder / "list.csv").write_text("two/blue/00.png,blue\ntwo/red/00.png,red\n")


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(name, never)


# A list of pictures


def test_what_a_list_names_is_learned_and_found_again(
    program: Callable[..., Done], make_pictures: Callable[..., Path], tmp_path: Path
) -> None:
    make_pictures(tmp_path / "photos", per_class=5)
    (tmp_path / "list.csv").write_text(
        "path,label,split\n"
        + "".join(
            f"photos/{label}/{number:02d}.png,{label},{'test' if number == 4 else 'train'}\n"
            for label in ("blue", "red")
            for number in range(5)
        )
    )
    (summary,) = program(
        "learn", "--task", "listed", "--data", "list.csv", *QUICK, "--json"
    ).records
    assert (summary["images"], summary["classes"]) == (8, 2)
    (found,) = program("evaluate", "--task", "listed", "--json").records
    assert (found["task"], found["n"]) == ("listed", 2)


# Several tasks


def test_two_tasks_are_learned_one_after_another(
    program: Callable[..., Done], make_pictures: Callable[..., Path], tmp_path: Path
) -> None:
    make_pictures(tmp_path / "sets" / "warm")
    make_pictures(tmp_path / "sets" / "plants", ("grass", "wheat"), first_colour=2)
    both = ("--task", "warm", "--task", "plants", "--data-root", "sets")
    done = program("learn", *both, *QUICK, "--json")
    assert [(r["task"], r["tasks"]) for r in done.records] == [("warm", 1), ("plants", 2)]
    registry = Registry.open(tmp_path / "registry")
    head = registry.head()
    assert head is not None
    assert [entry.name for entry in head.entries] == ["warm", "plants"]
    assert [head.parent, head.id] == [record["session"] for record in done.records]


def test_a_mistake_in_the_second_task_is_found_before_the_first_is_trained(
    program: Callable[..., Done], make_pictures: Callable[..., Path], tmp_path: Path
) -> None:
    make_pictures(tmp_path / "sets" / "warm")
    make_pictures(tmp_path / "sets" / "plants", ("grass",))
    both = ("--task", "warm", "--task", "plants", "--data-root", "sets")
    done = program("learn", *both, *QUICK)
    assert (done.returncode, done.stdout) == (15, "")
    assert_one_error(done.stderr, "only one class (grass)")
    assert not (tmp_path / "registry").exists()


# A dry run


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    program: Callable[..., Done], pictures: Path, tmp_path: Path
) -> None:
    options = ("learn", "--task", "colours", "--data", pictures, *QUICK, "--dry-run")
    (plan,) = program(*options, "--json").records
    assert plan["dry_run"] is True
    assert (plan["task"], plan["base"], plan["recipe"]["iterations"]) == ("colours", "tiny", 2)
    assert plan["train_images"] + plan["validation_images"] == 12
    assert (plan["test_images"], plan["classes"]) == (4, 2)
    assert plan["estimate"].keys() == {
        "reading_seconds",
        "seconds_per_iteration",
        "train_seconds",
        "memory_bytes",
        "expert_bytes",
    }
    assert plan["estimate"]["expert_bytes"] > 1_000_000

    done = program(*options)
    assert done.returncode == 0, done.stderr
    assert "to read the pictures and" in done.stdout
    assert "Nothing was written (--dry-run)." in done.stderr
    assert list(tmp_path.iterdir()) == []
