"""SIGKILL at every step and at random instants: the registry is the old one or the new one.

The work is done by `kill_harness.py` in a process of its own, which has no threads when it forks.

Every operation is killed at all of its steps, except those that share the path of `LEARN`: they are
killed where they differ from it, and half way. That nothing else differs is what
`test_all_commits_of_experts_take_the_tested_path` checks: it compares all their steps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny_registry as tiny
from operations import LEARN, LIKE_LEARN, OPERATIONS
from shared_path import Difference, difference, kind, places_to_kill
from steps import record

from condu_cli.workflows.sessions.collecting import collect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shared_path import Kinds

    from condu_cli.registry.repository import Registry

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEED = 20260
RANDOM_KILLS = 25
FEW_RANDOM_KILLS = 5
"""For an operation most of whose steps another one covers."""
QUICK = ("learn, second task", "undo", "migration", "first backup")
"""One operation of each kind: a commit with its pack, a move of HEAD, a migration, a copy."""
NAMES = [
    pytest.param(o.name, marks=() if o.name in QUICK else pytest.mark.thorough) for o in OPERATIONS
]
SUMMARY = (
    "{operation}: {steps} kills at steps, {random} at random instants ({ended} came too late), "
    "seed {seed}; {old} left the old state, {new} the new one; {states} different leftovers; "
    "{seconds} s"
)
KEEPS = (
    "os.mkdir registry/trained",
    "fsync registry",
    "os.mkdir registry/tmp",
    "os.mkdir registry/tmp/*",
    "open registry/tmp/*",
    "os.remove registry/tmp/*",
    "os.rename registry/tmp/* registry/tmp/*",
    "os.rmdir registry/tmp/*",
    "open registry/tmp/*",
    "fsync registry/tmp/*",
    "os.rename registry/tmp/* registry/trained/new.SHA256.safetensors",
    "fsync registry/trained",
    "os.remove registry/tmp/*",
)
PACKS = (
    *KEEPS[2:10],
    "os.mkdir registry/blobs/XX",
    "os.rename registry/tmp/* registry/blobs/XX/SHA256",
    "fsync registry/blobs/XX",
    "fsync registry/blobs",
    "os.remove registry/tmp/*",
    "BEGIN IMMEDIATE",
    "INSERT INTO BLOBS",
    "INSERT INTO PACKS",
    "COMMIT",
    "os.remove registry/blobs/XX/SHA256",
    "os.rmdir registry/blobs/XX",
)
DIFFERENCES = {
    "learn, first task": Difference(own=(), lacks=PACKS),
    "learn, fourth task": Difference(own=(), lacks=()),
    "import": Difference(own=(), lacks=("INSERT INTO SOURCES",)),
    "resume": Difference(own=(), lacks=KEEPS),
    "learn, from a beginning": Difference(own=(), lacks=()),
}
"""Differences of operations from `LEARN`, where they are killed. No parent, no patch of it."""
WRITE = """
import sys, numpy as np
from pathlib import Path
from condu_cli.registry.repository import Registry
registry = Registry.open(Path(sys.argv[1]))
registry.blobs.put({"large": np.ones(24 << 20, np.uint8)})
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Kinds]:
    """The steps of every operation that commits an expert, each by its kind."""
    folder = tmp_path_factory.mktemp("steps")
    recorded = record([o.name for o in (LEARN, *LIKE_LEARN)], folder, one_writer=True)
    return {n: tuple(kind(s, folder / n) for s in steps) for n, steps in recorded.items()}


@pytest.fixture(scope="module")
def places(kinds: Mapping[str, Kinds]) -> Mapping[str, list[int]]:
    """Where to kill the operations that are not killed everywhere."""
    return {o.name: places_to_kill(kinds[o.name], kinds[LEARN.name]) for o in LIKE_LEARN}


@pytest.fixture(scope="module")
def harness(
    request: pytest.FixtureRequest, places: Mapping[str, list[int]]
) -> Iterator[Callable[[str], subprocess.CompletedProcess[str]]]:
    """The outcome of an operation's harness; one runs per processor."""
    selected = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "harness" in item.fixturenames
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {name: pool.submit(run_harness, name, places.get(name, [])) for name in selected}
        yield lambda name: running[name].result()
        pool.shutdown(cancel_futures=True)  # after a failure the rest is not needed


def run_harness(name: str, at: list[int]) -> subprocess.CompletedProcess[str]:
    random = FEW_RANDOM_KILLS if at else RANDOM_KILLS
    return subprocess.run(
        [
            *(sys.executable, HERE / "kill_harness.py", name),
            *("--seed", str(SEED), "--random", str(random)),
            *(["--at", *map(str, at)] if at else []),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_kill_leaves_the_old_state_or_the_new_one(
    name: str,
    harness: Callable[[str], subprocess.CompletedProcess[str]],
    places: Mapping[str, list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = harness(name)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print("\n" + SUMMARY.format(**found), end="")
    assert not found["failures"], "\n".join(found["failures"])
    assert found["old"] + found["new"] == found["steps"] + found["random"] + found["ended"]
    assert found["old"]
    if name in places:
        assert (found["steps"], found["random"]) == (len(places[name]), FEW_RANDOM_KILLS)
    else:
        assert found["steps"] >= 10
        assert found["random"] == RANDOM_KILLS


def test_all_commits_of_experts_take_the_tested_path(kinds: Mapping[str, Kinds]) -> None:
    """If one has a new difference, it is killed there; check that this is enough."""
    swept = kinds[LEARN.name]
    assert {o.name: difference(kinds[o.name], swept) for o in LIKE_LEARN} == DIFFERENCES


@pytest.fixture
def killed_writer(tmp_path: Path) -> Registry:
    """A registry whose writer was killed while safetensors wrote a blob."""
    registry = tiny.create(tmp_path / "registry")
    for _ in range(20):
        writer = subprocess.Popen([sys.executable, "-c", WRITE, registry.path], env=environment())
        while writer.poll() is None and not list(registry.paths.tmp.rglob(".*")):
            time.sleep(0.0002)
        writer.kill()
        writer.wait()
        if list(registry.paths.tmp.rglob(".*")):
            break
    else:
        pytest.skip("this safetensors has no file of its own while it writes")
    return registry


def test_a_kill_inside_the_writer_of_tensors_leaves_nothing_for_long(
    killed_writer: Registry,
) -> None:
    """safetensors names its draft itself, but gc must still know its owner."""
    removed = collect(killed_writer, None).leftovers
    assert [item.kind for item in removed] == ["draft"]
    assert removed[0].size > 0
    assert not list(killed_writer.paths.tmp.iterdir())
