"""Learn experts one by one, each in a separate registry, for benchmarks that combine them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from command_line import condu

if TYPE_CHECKING:
    from pathlib import Path

    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.sessions.committing import Commit
    from condu_cli.workflows.sessions.trained_experts import TrainedExpert

EMBEDDED = ("digits", "shapes")
TASKS = [
    "eurosat",
    "oxford_pets",
    "caltech101",
    "dtd",
    "cifar10",
    "mnist",
    "scene15",
    "stanford_cars",
]


def learn_alone(work: Path, data: Path, task: str, base: str) -> Path:
    """Learn a task in a registry under `work`, or reuse the registry from an earlier run."""
    registry = work / f"alone-{task}"
    if not registry.exists():
        pictures = [] if task in EMBEDDED else ["--data", data / task]
        condu(registry, "learn", "--task", task, *pictures, "--base", base)
    return registry


def trained_expert(path: Path, task: str) -> TrainedExpert:
    """Return the only expert of a registry, which is restored exactly."""
    from condu_cli.core.routing.prototypes import Prototypes
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.sessions.coding import codec_for
    from condu_cli.workflows.sessions.states import open_state
    from condu_cli.workflows.sessions.trained_experts import TrainedExpert, new_run

    source = Registry.open(path)
    codec, session = codec_for(source.config), source.head()
    assert session is not None
    state, expert = open_state(source, session), session.entry(task).expert
    return TrainedExpert(
        task=task,
        kind="learn",
        delta=dict(codec.decode(state.shared, state.parts[0])),
        prototypes=Prototypes.from_arrays(source.blobs.open(expert.prototypes)),
        classes=expert.classes,
        templates=expert.templates,
        training={**expert.training, "run": new_run()},
        folder=source.folder_of(session.entry(task)),
    )


def add_expert(registry: Registry, path: Path, task: str) -> Commit:
    """Commit the expert of a single-task registry on top of another one."""
    from condu_cli.workflows.sessions.committing import commit_expert

    head = registry.head()
    parent = None if head is None else head.id
    return commit_expert(registry, trained_expert(path, task), parent=parent, command="benchmark")
