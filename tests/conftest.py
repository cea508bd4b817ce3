"""Helpers for all tests: the program as a subprocess, and generated pictures."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

import hypothesis_profiles
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Before torch is imported: more threads than cores slow all processes down several times over.
    _workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell ignores Ctrl-C in background jobs, but tests need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis_profiles.register()

MOST_PROCESSES = 8
"""Most test processes: each may run a `mini`, which takes up to 3 GB."""
COLOURS = ((40, 60, 220), (220, 40, 40), (40, 190, 60), (230, 200, 40), (150, 40, 180))
TIMEOUT_SECONDS = 600


class RunCondu(Protocol):
    """How tests call the program; see `run_condu`."""

    def __call__(
        self,
        *args: object,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        registry: Path | None = None,
    ) -> subprocess.CompletedProcess[str]: ...


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means."""
    return min(os.cpu_count() or 1, MOST_PROCESSES)


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all subprocesses of a test session: embedded pictures are written once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(cache_folder: Path) -> Iterator[None]:
    """No test reads or writes the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_folder))
        yield


@pytest.fixture(scope="session", autouse=True)
def _templates(tmp_path_factory: pytest.TempPathFactory) -> None:
    import registry_templates

    registry_templates.keep_in(tmp_path_factory.mktemp("templates"))


@pytest.fixture(scope="session")
def condu_in(cache_folder: Path) -> Callable[[Path], RunCondu]:
    """`condu_in(folder)` runs condu in a folder; for fixtures that outlive one test."""

    def bind(folder: Path) -> RunCondu:
        def run(
            *args: object,
            env: Mapping[str, str] | None = None,
            stdin: str | None = None,
            registry: Path | None = None,
        ) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "condu_cli", *map(str, args)],
                env={
                    **clean_environment(),
                    "CONDU_REGISTRY": str(registry or folder / "registry"),
                    "XDG_CACHE_HOME": str(cache_folder),
                    **(env or {}),
                },
                input=stdin if stdin is not None else "",
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                cwd=folder,
                check=False,
            )

        return run

    return bind


@pytest.fixture
def run_condu(condu_in: Callable[[Path], RunCondu], tmp_path: Path) -> RunCondu:
    """Run `condu ARGS…` as a user would, in `tmp_path`, with a separate registry there.

    `run_condu(*args, env=None, stdin=None, registry=None) -> CompletedProcess` in text mode.
    The registry is `tmp_path/registry` unless another one is given; `env` adds variables.
    """
    return condu_in(tmp_path)


@pytest.fixture(scope="session")
def make_pictures() -> Callable[..., Path]:
    """`make_pictures(root, classes, per_class, size)` writes a data set; see `write_pictures`."""
    return write_pictures


def clean_environment() -> dict[str, str]:
    """The environment without the caller's condu settings, colours or network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CONDU_")}
    kept.pop("FORCE_COLOR", None)
    return {
        **kept,
        "COLUMNS": "100",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        "TERM": "dumb",
    }


def write_pictures(
    root: Path,
    classes: Sequence[str] = ("blue", "red"),
    per_class: int = 10,
    size: int = 16,
    seed: int = 0,
    first_colour: int = 0,
) -> Path:
    """Write `root/CLASS/NN.png`: each class has its own colour with a little noise.

    The colours are blue, red, green, yellow and violet, from `first_colour` on.
    """
    rng = random.Random(seed)  # noqa: S311 - pictures that repeat, not secrets
    for number, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            _noisy(COLOURS[(first_colour + number) % len(COLOURS)], size, rng).save(
                folder / f"{index:02d}.png"
            )
    return root


def _noisy(colour: tuple[int, int, int], size: int, rng: random.Random) -> Image.Image:
    pixels = bytes(
        min(255, max(0, channel + rng.randrange(-30, 31)))
        for _ in range(size * size)
        for channel in colour
    )
    return Image.frombytes("RGB", (size, size), pixels)
