"""A trained expert on its way into the registry: saved first, so that nothing can lose it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from condu_cli.core.arrays.layout import InvalidDeltaError, InvalidStateError
from condu_cli.core.merging.checks import check_delta as check_values
from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.core.stored_heads import check_head
from condu_cli.errors import ConduError, IntegrityError
from condu_cli.registry.clock import utc_now
from condu_cli.registry.manifest import plain_record
from condu_cli.workflows.sessions.coding import layout_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from condu_cli.core.merging.checks import CheckedDelta
    from condu_cli.registry.blobs.kept_files import KeptFile
    from condu_cli.registry.manifest import RegistryConfig
    from condu_cli.registry.repository import Registry

DELTA, PROTOTYPES, HEAD = "delta/", "prototypes/", "head/"


@dataclass(frozen=True)
class TrainedExpert:
    """A finished expert on its way into the registry.

    `delta`: float32 of each trainable parameter's shape, from `check_delta`, the one place where
    its values are looked at. `training` is any JSON record of how it
    was made; it travels with the registry, so that no path of this machine belongs in it, but in
    `folder`, where the pictures are. `run` names this very training. `head`: the arrays of
    `stored_heads`, None for an expert without a head beside it.
    """

    task: str
    kind: str
    delta: CheckedDelta
    prototypes: Prototypes
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    training: Mapping[str, Any]
    folder: str | None = None
    head: Mapping[str, NDArray[np.float32]] | None = None


def check_delta(config: RegistryConfig, delta: Mapping[str, Any]) -> CheckedDelta:
    """Refuse a delta that could not be unified, before anything is created or locked.

    Raises:
        ConduError: NaN, infinity or a diverged value, naming the parameter.

    """
    try:
        return check_values(layout_of(config), delta)
    except InvalidDeltaError as exc:
        raise _unusable(exc) from exc


def _unusable(exc: InvalidDeltaError) -> ConduError:
    return ConduError(f"the trained expert cannot be unified: {exc}", reason="expert-diverged")


def keep_expert(registry: Registry, trained: TrainedExpert) -> KeptFile:
    """Write a trained expert to the registry's folder of waiting experts.

    Raises:
        ConduError: it cannot be written, or its head does not fit its classes or is not finite.

    """
    arrays = {DELTA + name: values for name, values in trained.delta.items()}
    arrays = {name: _host(values) for name, values in arrays.items()}
    arrays |= {PROTOTYPES + n: values for n, values in trained.prototypes.to_arrays().items()}
    arrays |= {HEAD + name: values for name, values in _usable_head(trained).items()}
    record = {
        "kind": trained.kind,
        "classes": list(trained.classes),
        "templates": list(trained.templates),
        "training": dict(trained.training),
        "folder": trained.folder,
        "fingerprint": registry.config.fingerprint(),
        "at": utc_now(),
    }
    return registry.waiting.save(trained.task, arrays, plain_record(record))


def _usable_head(trained: TrainedExpert) -> Mapping[str, NDArray[np.float32]]:
    if trained.head is None:
        return {}
    try:
        return check_head(trained.head, len(trained.classes))
    except InvalidStateError as exc:
        raise ConduError(
            f"the head of the trained expert cannot be used: {exc}", reason="expert-diverged"
        ) from exc


def load_expert(registry: Registry, waiting: KeptFile) -> TrainedExpert:
    """Read a kept expert.

    Raises:
        IntegrityError: it is corrupt, or was trained for another base model or registry.

    """
    record = registry.waiting.verified_record(waiting)
    if record.get("fingerprint") != registry.config.fingerprint():
        raise IntegrityError(
            f"{waiting.path} was trained for a registry of another base model",
            reason="expert-of-other-registry",
            path=waiting.path,
        )
    try:
        head = waiting.under(HEAD)
        return TrainedExpert(
            task=waiting.task,
            kind=record["kind"],
            delta=check_values(layout_of(registry.config), waiting.under(DELTA)),
            prototypes=Prototypes.from_arrays(waiting.under(PROTOTYPES)),
            classes=tuple(record["classes"]),
            templates=tuple(record["templates"]),
            training=dict(record["training"], run=str(record["training"]["run"])),
            folder=record["folder"],
            head=check_head(head, len(record["classes"])) if head else None,
        )
    except IntegrityError as exc:
        raise registry.waiting.unusable(waiting.path, exc) from exc
    except (InvalidDeltaError, InvalidStateError, KeyError, TypeError) as exc:
        raise IntegrityError(
            f"{waiting.path} does not hold a trained expert: {exc}",
            reason="expert-file-damaged",
            path=waiting.path,
            task=waiting.task,
        ) from exc


def new_run() -> str:
    """Return an id for one training, by which its expert is recognised."""
    return secrets.token_hex(8)


def _host(values: Any) -> Any:
    """Return numpy arrays unchanged, and tensors of any device as numpy arrays."""
    return values if hasattr(values, "__array_interface__") else values.detach().cpu().numpy()
