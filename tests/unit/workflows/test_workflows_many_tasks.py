"""More tasks than open files (often 256 at most) must not be reported as corruption."""

import json
import shutil
import subprocess
import sys

import pytest
from many_tasks import registry_of_tasks

FILES = 256
TASKS = [FILES + 44, pytest.param(2_000, marks=pytest.mark.thorough)]
"""Each task has at least one file, so any number above `FILES` is too many to hold open."""

PROGRAM = """
import json, resource, sys
from pathlib import Path

sys.path[:0] = json.loads(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]), int(sys.argv[3])))
from made_registries import learn
from condu_cli.registry.copies.archive import write_archive
from condu_cli.registry.copies.backup import back_up_registry
from condu_cli.registry.repository import Registry
from condu_cli.registry.storage import measure
from condu_cli.workflows.opening.pinning import pin_head
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.verification import verify

path = Path(sys.argv[1])
pinned = pin_head(Registry.open(path))
before = [entry.expert.prototypes for entry in pinned.session.entries]
registry = Registry.open(path)
head = learn(registry, "new")
collect(registry, None)
problems = verify(registry).problems
sizes = measure(registry)
back_up_registry(registry, path.with_name("backup"), lambda done, total: None)
write_archive(registry, path.with_name("archive"), overwrite=False)
print(json.dumps({
    "tasks": len(head.entries),
    "problems": [problem.reason for problem in problems],
    "measured": len(sizes.tasks),
    "pinned": sum(len(pinned.blob(sha256)) > 0 for sha256 in before),
    "parts": sum("rescaler" in pinned.blob(entry.part) for entry in pinned.session.entries),
    "packed": len(registry.history().packs),
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits open files otherwise")
@pytest.mark.parametrize("tasks", TASKS)
def test_many_tasks_need_no_more_open_files_than_a_few(tmp_path, tasks):
    made = registry_of_tasks(tmp_path, tasks).path
    many = shutil.move(made, tmp_path / "registry")
    command = [sys.executable, "-c", PROGRAM, many, json.dumps(sys.path), FILES]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "tasks": tasks + 1,
        "problems": [],
        "measured": tasks + 1,
        "pinned": tasks,
        "parts": tasks,
        "packed": 1,
    }
