"""Registries of made-up experts: the real codec on a small layout, without torch or a model."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from registry_templates import copy_of

from condu_cli.base_identity import BaseIdentity
from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.registry.manifest import CodecChoice, ParameterShape, RegistryConfig
from condu_cli.registry.repository import Registry
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.committing import commit_expert
from condu_cli.workflows.sessions.states import open_state
from condu_cli.workflows.sessions.trained_experts import TrainedExpert, new_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from condu_cli.registry.manifest import Session

SHAPES = {
    "image.weight": (24, 40),
    "image.bias": (24,),
    "text.embedding": (64, 16),
    "text.weight": (16, 20),
}


def made_config(
    dtype: str = "float32", rescaler: str = "row", codec: str = "condu", **others: str
) -> RegistryConfig:
    """`rescaler` is an option of `condu` alone, and so are `others`, such as exact or trim."""
    options = {"dtype": dtype, **({"rescaler": rescaler} if codec == "condu" else {}), **others}
    return RegistryConfig(
        base=BaseIdentity("tiny", "condu-tiny", "", "gelu", "b" * 64, 32),
        method="full",
        codec=CodecChoice(codec, options),
        parameters=tuple(ParameterShape(name, shape) for name, shape in SHAPES.items()),
    )


def made_registry(path: Path, *tasks: str, **values: str) -> Registry:
    """A registry with an expert for each of the tasks; `values` as for `made_config`."""
    return copy_of(path, made_fresh, *tasks, **values)


def made_fresh(path: Path, *tasks: str, **values: str) -> Registry:
    """Create a registry and commit an expert for each of the tasks."""
    registry = Registry.create(path, made_config(**values))
    for task in tasks:
        learn(registry, task)
    return registry


def made_expert(
    task: str,
    seed: int = 0,
    kind: str = "learn",
    folder: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    *,
    quick: bool = False,
    head: bool = False,
    head_classes: int = 2,
) -> TrainedExpert:
    """An expert that depends only on task and seed, except for its run.

    `quick`: whether it is a beginning; `head`: whether it has a head beside it.
    """
    digest = hashlib.sha256(f"{task} {seed}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return rng.normal(scale=scale, size=shape).astype(np.float32)

    delta = {name: normal(*shape, scale=1e-3) for name, shape in shapes.items()}
    if "text.embedding" in delta:
        delta["text.embedding"][rng.integers(8, 64) :] = 0  # unused tokens
    prototypes = Prototypes.from_arrays(
        {
            "text": normal(2, 8),
            "image": normal(2, 8),
            "pooled": normal(2, 12),
            "counts": np.array([5, 5], dtype=np.int64),
        }
    )
    return TrainedExpert(
        task=task,
        kind=kind,
        delta=delta,
        prototypes=prototypes,
        classes=(f"{task} one", f"{task} two"),
        templates=("a photo of a {}.",),
        training={
            "run": new_run(),
            "recipe": {"image_size": 32},
            "train_images": 10,
            "final_loss": 0.25,
            **({"quick": True} if quick else {}),
        },
        folder=folder,
        head={"weights": normal(head_classes, 12), "bias": normal(head_classes)} if head else None,
    )


def learn(registry: Registry, task: str, seed: int = 0, **values) -> Session:
    """Commit a made-up expert on HEAD."""
    head = registry.head()
    parent = None if head is None else head.id
    expert = made_expert(task, seed, **values)
    command = f"{expert.kind} --task {task}"
    return commit_expert(registry, expert, parent=parent, command=command).session


def decoded(registry: Registry, session: Session | None) -> dict[str, str]:
    """A hash of the decoded delta of every task in a session."""
    codec = codec_for(registry.config, session)
    state = open_state(registry, session)
    found = {}
    for entry, part in zip(() if session is None else session.entries, state.parts, strict=True):
        digest = hashlib.sha256()
        for name, values in codec.decode(state.shared, part):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        found[entry.name] = digest.hexdigest()
    return found


def blob_bytes(registry: Registry, session: Session) -> dict[str, bytes]:
    """The bytes of the files of a session's experts that are on disk."""
    blobs = registry.blobs
    return {s: blobs.path(s).read_bytes() for s in session.state_blobs() if blobs.exists(s)}


def flip(path: Path, offset: int) -> None:
    """Change one byte of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset, 0 if offset >= 0 else 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0xFF]))


def files_of(root: Path) -> dict[str, bytes]:
    """The content of every file below a folder, except the database's and the lock's."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(("condu.sqlite", "lock"))
    }
