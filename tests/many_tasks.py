"""Registries of many tasks or sessions, made in seconds.

Their masks are made up, not unified; everything else is like in real commits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from made_registries import learn, made_config, made_expert

from condu_cli.core.codecs.condu.stored_masks import decode_mask, encode_mask
from condu_cli.core.codecs.interface import EncodedState
from condu_cli.registry.manifest import Expert, TaskEntry
from condu_cli.registry.repository import Registry
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.committing import session_of_state
from condu_cli.workflows.sessions.forgetting import forget
from condu_cli.workflows.sessions.states import open_state

if TYPE_CHECKING:
    from pathlib import Path


def registry_of_tasks(path: Path, count: int) -> Registry:
    """A registry whose one session holds `count` tasks, task0 and so on."""
    registry = Registry.create(path / "one", made_config())
    codec = codec_for(registry.config)
    state = open_state(registry, learn(registry, "one"))
    registry = Registry.create(path / "many", made_config())
    made, rng = made_expert("one"), np.random.default_rng(0)
    part = state.parts[0]
    figures = {name: part[name] for name in part if not name.startswith("mask")}
    mask = np.asarray(decode_mask(part, codec.layout))
    parts, entries = [], []
    for number in range(count):
        some = mask & rng.integers(0, 256, mask.shape, dtype=np.uint8)
        parts.append({**figures, **encode_mask(some)})
        arrays = {**made.prototypes.to_arrays(), "counts": np.array([number, 1], np.int64)}
        expert = Expert(
            (f"{number} one", f"{number} two"),
            made.templates,
            registry.blobs.put(arrays).sha256,
            {**made.training, "run": f"{number:016x}"},
        )
        entries.append(TaskEntry(f"task{number}", expert, "0" * 64, None, {}, None))
    state = EncodedState(state.shared, parts)
    with registry.lock("learn"):
        session = session_of_state(
            registry, codec, state, entries, None, kind="learn", task="task0"
        )
        registry.commit(session, command="learn")
    return registry


def add_sessions(registry: Registry, count: int) -> None:
    """Lengthen the history by sessions of the same tasks: one is learned and forgotten in turn."""
    for number in range(count):
        if number % 2:
            forget(registry, "again", "forget")
        else:
            learn(registry, "again", seed=number)
