"""Unfinished trainings: saved while they run, and resumed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.data.pictures.picture_files import picture_name
from condu_cli.data.sources.known_tasks import data_root
from condu_cli.errors import DataError
from condu_cli.registry.clock import utc_now
from condu_cli.registry.manifest import canonical_json, plain_record
from condu_cli.train.recipe import Recipe
from condu_cli.train.run_state import RunState
from condu_cli.workflows.learning.planning import LearnRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.data.labelled import Sample
    from condu_cli.registry.blobs.kept_files import KeptFile
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.learning.planning import LearnPlan

STATE, PROTOTYPES = "state/", "prototypes/"


@dataclass(frozen=True)
class Unfinished:
    """A training between two iterations, with everything that it was started with.

    `run` identifies the training and later its expert; `data` is a hash of pictures, labels and
    classes. `root`: the data root that `CONDU_DATA` named when the training began.
    """

    task: str
    run: str
    request: LearnRequest
    recipe: Recipe
    data: str
    prototypes: Prototypes
    state: RunState
    root: Path | None = None

    @property
    def request_now(self) -> LearnRequest:
        """The request, with the recorded data root if `CONDU_DATA` is no longer set.

        If it now names another folder, the pictures are taken to have moved there.
        """
        request = self.request
        if request.data or request.data_root or data_root() is not None:
            return request
        return replace(request, data_root=self.root)

    @property
    def iteration(self) -> int:
        """The number of completed iterations."""
        return int(self.state.history["iteration"])


def save_unfinished(
    registry: Registry, unfinished: Unfinished, replaces: Path | None = None
) -> Path:
    """Save a training, replacing its earlier file, and return the new file's path.

    Raises:
        ConduError: the disk is full.

    """
    arrays = {STATE + name: values for name, values in unfinished.state.arrays.items()}
    prototypes = unfinished.prototypes.to_arrays()
    arrays |= {PROTOTYPES + name: values for name, values in prototypes.items()}
    record = {
        "run": unfinished.run,
        "request": unfinished.request.as_record(),
        "root": None if unfinished.root is None else str(unfinished.root.resolve()),
        "recipe": unfinished.recipe.as_record(),
        "data": unfinished.data,
        "history": dict(unfinished.state.history),
        "fingerprint": registry.config.fingerprint(),
        "at": utc_now(),
    }
    saved = registry.runs.save(unfinished.task, arrays, plain_record(record))
    if replaces is not None and replaces != saved.path:
        registry.runs.remove(replaces)
    return saved.path


def load_unfinished(registry: Registry, file: KeptFile) -> Unfinished:
    """Read a saved training.

    Raises:
        IntegrityError: the file is corrupt, or belongs to another base model or registry.

    """
    record = registry.runs.verified_record(file)
    if record.get("fingerprint") != registry.config.fingerprint():
        raise registry.runs.unusable(file.path, "belongs to a registry of another base model")
    try:
        return Unfinished(
            task=file.task,
            run=str(record["run"]),
            request=LearnRequest.from_record(record["request"]),
            recipe=Recipe(**record["recipe"]),
            data=str(record["data"]),
            prototypes=Prototypes.from_arrays(file.under(PROTOTYPES)),
            state=RunState(file.under(STATE), dict(record["history"])),
            root=Path(record["root"]) if record.get("root") else None,
        )
    except (InvalidStateError, KeyError, TypeError) as exc:
        raise registry.runs.unusable(file.path, f"does not hold a training: {exc}") from exc


def data_fingerprint(
    samples: Sequence[Sample], validation: Sequence[Sample], plan: LearnPlan
) -> str:
    """Hash the pictures' names, labels and order, but not their contents.

    The folder does not matter: a disk may be mounted elsewhere.
    """
    root = plan.data_root if plan.data_root.is_dir() else plan.data_root.parent
    listed = [
        [[_name_below(root, sample), sample.label] for sample in part]
        for part in (samples, validation)
    ]
    names = list(plan.data.class_names)
    return hashlib.sha256(
        canonical_json({"pictures": listed, "classes": names}).encode()
    ).hexdigest()


def _name_below(root: Path, sample: Sample) -> str:
    """Return a picture's name; for a file, its path relative to the data set's folder."""
    if isinstance(sample.picture, Path):
        return os.path.relpath(sample.picture, root)
    return picture_name(sample.picture)


def check_same_data(unfinished: Unfinished, found: str) -> None:
    """Refuse to resume with different pictures.

    Raises:
        DataError: pictures, labels or classes have changed.

    """
    if unfinished.data != found:
        raise DataError(
            f"the pictures of '{unfinished.task}' have changed since its training began",
            reason="pictures-changed",
            task=unfinished.task,
        )
