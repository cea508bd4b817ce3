"""A registry of a few hundred parameters and no model, used through the real workflows.

Predictions depend only on the base model and the experts' deltas, so here "the predictions of
a session" are the bits of all its decoded deltas.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING

import numpy as np

from condu_cli.base_identity import BaseIdentity
from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.registry.manifest import CodecChoice, ParameterShape, RegistryConfig
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.committing import Commit, commit_expert
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import open_state
from condu_cli.workflows.sessions.trained_experts import TrainedExpert, new_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from condu_cli.core.codecs.interface import EncodedState
    from condu_cli.registry.manifest import Session

Shapes = tuple[ParameterShape, ...]
Predictions = tuple[tuple[str, str], ...]
"""The tasks of a state in their order, each with the sha256 of its decoded delta."""

SHAPES = (ParameterShape("weight", (12, 40)), ParameterShape("bias", (40,)))


def config(shapes: Shapes = SHAPES) -> RegistryConfig:
    return RegistryConfig(
        base=BaseIdentity("tiny", "tiny-arch", "", "gelu", "b" * 64, 8),
        method="full",
        codec=CodecChoice(
            "condu", {"dtype": "float32", "rescaler": "row", "exact": "vectors", "trim": "0.5"}
        ),
        parameters=shapes,
    )


def create(root: Path, tasks: int = 0, shapes: Shapes = SHAPES) -> Registry:
    """A registry that has learned `task0`, `task1`, and so on."""
    registry = Registry.create(root, config(shapes))
    for number in range(tasks):
        learn(registry, f"task{number}")
    return registry


def expert(
    registry: Registry, task: str, kind: str = "learn", *, quick: bool = False, head: bool = False
) -> TrainedExpert:
    """The expert that training a task always gives; `quick`: the beginning of one."""
    random = np.random.default_rng(zlib.crc32(task.encode()) + quick)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(scale=1e-2, size=shape).astype(np.float32)

    return TrainedExpert(
        task=task,
        kind=kind,
        delta={p.name: normal(*p.shape) for p in registry.config.parameters},
        prototypes=Prototypes(normal(2, 4), normal(2, 4), normal(2, 6), np.array([5, 5], np.int64)),
        classes=(f"{task} one", f"{task} two"),
        templates=("a photo of a {}.",),
        training={"run": new_run(), "recipe": {"image_size": 8}, "quick": quick},
        folder=f"/pictures/{task}" if kind == "learn" else None,
        head={"weights": normal(2, 6), "bias": normal(2)} if head else None,
    )


def learn(
    registry: Registry, task: str, kind: str = "learn", *, quick: bool = False, head: bool = False
) -> Commit:
    """Commit a task's expert on the current HEAD."""
    parent = registry.head()
    return commit_expert(
        registry,
        expert(registry, task, kind, quick=quick, head=head),
        parent=None if parent is None else parent.id,
        command=f"{kind} --task {task}",
    )


def roll_back_to(registry: Registry, revision: str) -> None:
    roll_back(registry, Aim(revision), f"rollback {revision}")


def predictions_of(registry: Registry, session: Session | None) -> Predictions:
    """Decode a session, from its files or from its patches."""
    return decoded(registry, session, open_state(registry, session))


def decoded(registry: Registry, session: Session | None, state: EncodedState) -> Predictions:
    codec = codec_for(registry.config)
    entries = () if session is None else session.entries
    return tuple(
        (entry.name, digest(dict(codec.decode(state.shared, part))))
        for entry, part in zip(entries, state.parts, strict=True)
    )


def digest(delta: Mapping[str, np.ndarray]) -> str:
    bits = hashlib.sha256()
    for name in sorted(delta):
        bits.update(np.ascontiguousarray(delta[name], dtype=np.float32).tobytes())
    return bits.hexdigest()
