"""Learn experts one by one, each in a separate registry, for benchmarks that combine them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from command_line import condu

if TYPE_CHECKING:
    from collections.abc import Mapping
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


UNTOUCHED = {"rescaler": "global", "exact": "", "trim": "0"}
"""Options with which a registry restores its only expert bit for bit."""


def learn_alone(
    work: Path, data: Path, task: str, base: str, *options: object, method: str = "full"
) -> Path:
    """Learn a task in a registry under `work`, or reuse the registry from an earlier run.

    `data` is a list of pictures, or holds one folder of them per task; `options` are given to
    `condu learn`.
    """
    registry = work / f"alone-{task}"
    if not (registry / "condu.sqlite").exists():
        create(registry, base, method, UNTOUCHED)
    if not condu(registry, "log"):
        pictures = [] if task in EMBEDDED else ["--data", data if data.is_file() else data / task]
        condu(registry, "learn", "--task", task, *pictures, *options)
    return registry


def create(path: Path, base: str, method: str, codec_options: Mapping[str, str]) -> None:
    """Create an empty registry with some options of the codec."""
    from condu_cli.backbone.base_models import load_base
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.opening.workspace import new_config

    Registry.create(path, new_config(load_base(base), method, codec_options))


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
        head=None if expert.head is None else dict(source.blobs.open(expert.head)),
    )


def add_expert(registry: Registry, path: Path, task: str) -> Commit:
    """Commit the expert of a single-task registry on top of another one."""
    from condu_cli.workflows.sessions.committing import commit_expert

    head = registry.head()
    parent = None if head is None else head.id
    return commit_expert(registry, trained_expert(path, task), parent=parent, command="benchmark")
