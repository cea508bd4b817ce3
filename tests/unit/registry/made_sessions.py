"""New sessions whose blobs are a few random numbers."""

from dataclasses import replace

import numpy as np

from condu_cli.registry.manifest import Expert, Session, TaskEntry
from condu_cli.registry.repository import Registry

RECORD = {"rescaler": 1.0, "mask_density": 0.5, "l1_norm": 12.5}


def session_of(
    registry: Registry,
    task: str,
    parent: Session | None,
    seed: int,
    classes: tuple[str, ...] = (),
    **training: object,
) -> Session:
    """Write the blobs of a session that adds `task` to `parent`, and return it.

    `classes`: other ones than usual. `training`: extra fields for the new expert's record. Every
    second expert has a head.
    """
    random = np.random.default_rng(seed)

    def blob(what: str) -> str:
        return registry.blobs.put(
            {what: random.normal(size=16).astype(np.float32)}, metadata={"task": task}
        ).sha256

    expert = Expert(
        classes=classes or (f"{task} one", f"{task} two"),
        templates=("a photo of a {}.",),
        prototypes=blob("prototypes"),
        training={"seed": seed, "final_loss": 0.25, **training},
        head=blob("head") if seed % 2 else None,
    )
    new = TaskEntry(task, expert, blob("part"), None, RECORD, None)
    old = () if parent is None else tuple(entry for entry in parent.entries if entry.name != task)
    again = tuple(replace(entry, part=blob("part"), drift=0.125) for entry in old)
    above = None if parent is None else parent.id
    entries = (*again, new)
    return Session.on(above, "learn", task, blob("shared"), entries, note={"by": "a test"})


def add_task(registry: Registry, task: str) -> Session:
    """Commit a session that adds a task on HEAD."""
    session = session_of(registry, task, registry.head(), seed=len(registry.sessions()))
    with registry.lock("learn"):
        return registry.commit(session, command=f"condu learn --task {task}")
