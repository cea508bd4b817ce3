"""SIGKILL at every step and at random instants: the registry is the old one or the new one.

The work is done by `kill_harness.py` in a process of its own, which has no threads when it forks.
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
from operations import OPERATIONS

from condu_cli.workflows.sessions.collecting import collect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from condu_cli.registry.repository import Registry

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEED = 20260
RANDOM_KILLS = 25
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
def harness(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[str], subprocess.CompletedProcess[str]]]:
    """The outcome of an operation's harness; as many run at once as there are processors."""
    selected = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "harness" in item.fixturenames
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {name: pool.submit(run_harness, name) for name in selected}
        yield lambda name: running[name].result()
        pool.shutdown(cancel_futures=True)  # after a failure nobody asks for the rest


def run_harness(name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, HERE / "kill_harness.py", name),
            *("--seed", str(SEED), "--random", str(RANDOM_KILLS)),
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
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = harness(name)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print("\n" + SUMMARY.format(**found), end="")
    assert not found["failures"], "\n".join(found["failures"])
    assert found["random"] == RANDOM_KILLS
    assert found["old"] + found["new"] == found["steps"] + found["random"] + found["ended"]
    assert found["steps"] >= 10
    assert found["old"]


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
    """safetensors names its draft itself; a collector must know whose it was all the same."""
    removed = collect(killed_writer, None).leftovers
    assert [item.kind for item in removed] == ["draft"]
    assert removed[0].size > 0
    assert not list(killed_writer.paths.tmp.iterdir())
