"""Import a checkpoint that was fine-tuned elsewhere: it becomes a task without training."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from condu_cli._version import __version__
from condu_cli.backbone.base_models import DEFAULT_BASE, load_base
from condu_cli.backbone.classifiers import text_features
from condu_cli.backbone.features import image_features
from condu_cli.backbone.models.open_clip_specs import openai_preparation
from condu_cli.backbone.statements import noted_preparation, statement_of
from condu_cli.backbone.weight_files import (
    ADAPTER_WEIGHTS,
    head_file,
    is_adapter,
    is_checkpoint,
    is_hugging_face,
)
from condu_cli.backbone.weights.adapters import (
    Adapter,
    adapter_delta,
    read_adapter,
)
from condu_cli.backbone.weights.checkpoints import Checkpoint, read_checkpoint
from condu_cli.backbone.weights.foreign_experts import ForeignExpert, expert_delta
from condu_cli.backbone.weights.hugging_face import read_folder, stated_beside
from condu_cli.base_identity import HUB_PREFIX
from condu_cli.core.routing.prototypes import PrototypeBuilder, Prototypes
from condu_cli.data.labelled import fingerprint
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.scanning import ReadingRules
from condu_cli.data.sources.task_data import templates_for
from condu_cli.errors import ConduError, DataError, UsageError
from condu_cli.registry.blobs.store import file_sha256
from condu_cli.registry.copies.archive_format import is_archive
from condu_cli.registry.names import validate_task_name
from condu_cli.texts import visible
from condu_cli.workflows.learning.prototyping import build_task_prototypes
from condu_cli.workflows.opening.paradigms import FULL, LORA
from condu_cli.workflows.opening.registry_kind import load_kind, refuse_other_base
from condu_cli.workflows.opening.registry_only import (
    join_or_create,
    open_if_there,
    require_room,
)
from condu_cli.workflows.progress import ProgressCallback, silent
from condu_cli.workflows.sessions.committing import CommitSeconds, commit_expert
from condu_cli.workflows.sessions.current import refuse_known_task
from condu_cli.workflows.sessions.trained_experts import TrainedExpert, check_delta, new_run
from condu_cli.workflows.transfers.exported_heads import check_width, noted_head, warnings_of_head
from condu_cli.workflows.transfers.exporting import ExportNote, read_note
from condu_cli.workflows.transfers.noted_classes import classes_of, read_data

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.core.arrays.layout import Float32
    from condu_cli.core.merging.checks import CheckedDelta
    from condu_cli.data.labelled import LabelledPictures
    from condu_cli.registry.manifest import RegistryConfig, Session
    from condu_cli.registry.repository import Registry


@dataclass(frozen=True)
class ImportRequest:
    """What to import; omitted values come from condu's note in the file, if it has one.

    `weights`: a checkpoint's file, or the folder of a PEFT adapter or a Hugging Face CLIPModel.
    """

    task: str
    weights: Path
    class_names: Path | None = None
    data: Path | None = None
    templates: tuple[str, ...] = ()
    image_size: int | None = None
    base: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class ImportPlan:
    """Everything that is decided before anything is written.

    `folders` are the names of the classes' folders, in the order of `classes`; `data` is None
    if prototypes come from text alone. `head` has a row for each class, in that order; None for an
    expert that was exported without one.
    """

    request: ImportRequest
    base_id: str
    classes: tuple[str, ...]
    folders: tuple[str, ...]
    templates: tuple[str, ...]
    image_size: int
    data: LabelledPictures | None
    delta: CheckedDelta
    head: Mapping[str, Float32] | None
    distance: float
    weights_sha256: str
    creates_registry: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ImportSummary(CommitSeconds):
    """What a finished `import` reports; times in seconds, `distance` relative to the base model.

    `head_from` is the name of the file with the expert's head, None without one.
    """

    session: str
    task: str
    imported_from: str
    classes: int
    images: int
    tasks: int
    distance: float
    prototype_seconds: float
    head_from: str | None = None
    warnings: tuple[str, ...] = field(default=())


class Importer:
    """One expert to import: `plan` checks everything and returns what can be run."""

    def __init__(self, registry_path: Path, request: ImportRequest) -> None:
        validate_task_name(request.task)
        self._path = registry_path
        self._request = request
        self._registry = open_if_there(registry_path)
        self._parent = None if self._registry is None else self._registry.head()
        refuse_known_task(self._parent, request.task, "import")

    def plan(self) -> PlannedImport:
        """Read the checkpoint, compute its delta, and decide classes and prompts.

        Raises:
            UsageError: class names are missing, options contradict the file or the registry, or
                a checkpoint meets LoRA experts, or an adapter fully fine-tuned ones.
            DataError: the file is not a checkpoint, classes and pictures do not fit, or the head
                that it was exported with is missing or another one.
            BaseModelError: it was not fine-tuned from the registry's base model.

        """
        request = self._request
        method = FULL if self._registry is None else self._registry.config.method
        _refuse_other_method(request.weights, method)
        found = _read(request.weights)
        checkpoint = found.checkpoint if isinstance(found, Adapter) else found
        note = read_note(request.weights, checkpoint.metadata)
        templates = templates_for(request.task, request.templates or _noted_templates(note))
        data = read_data(request.data, request.class_names, note)
        folders, classes = classes_of(request.weights, request.class_names, note, data)
        head = noted_head(request.weights, note, (classes, folders))
        preparation = noted_preparation(checkpoint.metadata)
        base, config = load_kind(self._registry, self._base_id(note), request.device, preparation)
        require_room(self._path, config)
        expert = _delta(base, found)
        delta = _checked(config, expert, request.weights)
        if head is not None:
            check_width(head, pooled_width(base), request.weights)
        plan = ImportPlan(
            request=request,
            base_id=base.info.id,
            classes=classes,
            folders=folders,
            templates=templates,
            image_size=_settle_image_size(request, note, base),
            data=data,
            delta=delta,
            head=head,
            distance=expert.distance,
            weights_sha256=_hash_of(checkpoint),
            creates_registry=self._registry is None,
            warnings=(
                *([base.assumption] if base.assumption else []),
                *expert.warnings,
                *warnings_of_head(request.weights, head),
                *_routing_warnings(request.task, data),
                *(f"left out: {line}" for line in (data.omitted if data else ())),
            ),
        )
        return PlannedImport(plan, base, config, self._path, self._registry, self._parent)

    def _base_id(self, note: ExportNote | None) -> str | None:
        """Return the requested base model, or the file's if there is no registry yet."""
        base = self._request.base
        refuse_other_base(self._registry, base)
        if base is None and self._registry is None:
            return _noted_base(self._request, note)
        return base


@dataclass
class PlannedImport:
    """An import that is planned and checked, made by `Importer.plan`.

    `base`: the loaded base model, until `run` has made the prototypes with it; `registry`: the one
    at `path`, None if one with `config` will be created; `parent`: its HEAD.
    """

    plan: ImportPlan
    base: DualEncoder | None
    config: RegistryConfig
    path: Path
    registry: Registry | None
    parent: Session | None

    def run(self, on_progress: ProgressCallback = silent) -> ImportSummary:
        """Build prototypes, unify and commit; nothing is written before the commit.

        Raises:
            DataError: pictures that cannot be read.
            HeadMovedError: HEAD has moved since the plan.
            LockedError: another process is committing.

        """
        started = time.perf_counter()
        prototypes = self._prototypes(on_progress)
        self.base = None  # unify needs as much memory as a model
        load_base.cache_clear()
        seconds = time.perf_counter() - started
        registry = self.registry or join_or_create(self.path, self.config, "import")
        plan, data = self.plan, self.plan.data
        trained = TrainedExpert(
            task=plan.request.task,
            kind="import",
            delta=plan.delta,
            prototypes=prototypes,
            classes=plan.classes,
            templates=plan.templates,
            training=_record(plan),
            folder=None if data is None else str(_root(plan).resolve()),
            head=plan.head,
        )
        commit = commit_expert(
            registry,
            trained,
            parent=None if self.parent is None else self.parent.id,
            command=f"import {trained.task}",
            on_progress=on_progress,
        )
        return ImportSummary(
            **asdict(commit.seconds),
            session=commit.session.id,
            task=trained.task,
            imported_from=visible(plan.request.weights.name),
            classes=len(plan.classes),
            images=0 if data is None else len(data.train),
            tasks=len(commit.session.entries),
            distance=plan.distance,
            prototype_seconds=seconds,
            head_from=None if plan.head is None else head_file(plan.request.weights).name,
            warnings=(*plan.warnings, *commit.warnings),
        )

    def _prototypes(self, on_progress: ProgressCallback) -> Prototypes:
        plan, data, base = self.plan, self.plan.data, self.base
        assert base is not None  # noqa: S101 - a plan is run once
        if data is None:
            return text_prototypes(base, plan.classes, plan.templates)
        # Not used for training, so not kept in memory.
        rules = ReadingRules(class_names=plan.classes, keep=False)
        return build_task_prototypes(
            base,
            PictureSet(data.train, rules=rules),
            plan.classes,
            plan.templates,
            on_progress=on_progress,
        )


def _checked(config: RegistryConfig, expert: ForeignExpert, path: Path) -> CheckedDelta:
    try:
        return check_delta(config, expert.delta)
    except ConduError as exc:
        raise ConduError(exc.message, reason="checkpoint-not-finite", path=path) from exc


def _refuse_other_method(path: Path, method: str) -> None:
    """Refuse experts of another fine-tuning method, before anything is read."""
    if not path.exists():
        raise DataError(f"{path}: no such file", reason="no-such-file", path=path)
    if is_archive(path):
        raise UsageError(
            f"{path}: holds a whole registry, not a model", reason="not-a-model", path=path
        )
    if method == LORA and not is_adapter(path):
        raise UsageError(
            f"{path}: is a checkpoint of whole weights, but the registry holds LoRA experts",
            reason="not-an-adapter",
            path=path,
            weights=ADAPTER_WEIGHTS,
        )
    if method != LORA and is_adapter(path):
        raise UsageError(
            f"{path}: is a PEFT adapter, but the registry holds fully fine-tuned experts",
            reason="not-whole-weights",
            path=path,
        )


def _read(path: Path) -> Checkpoint | Adapter:
    if is_adapter(path):
        return read_adapter(path)
    if is_hugging_face(path):
        return read_folder(path)
    found = read_checkpoint(path)
    if found.metadata:  # condu's own note says it all
        return found
    return replace(found, statement=stated_beside(path) or statement_of(path, openai_preparation()))


def _hash_of(checkpoint: Checkpoint) -> str:
    """Return the hash of its file; of several, the hash of theirs."""
    hashes = [file_sha256(file) for file in checkpoint.files or (checkpoint.path,)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _delta(base: DualEncoder, found: Checkpoint | Adapter) -> ForeignExpert:
    return adapter_delta(base, found) if isinstance(found, Adapter) else expert_delta(base, found)


def text_prototypes(
    base: DualEncoder, classes: Sequence[str], templates: Sequence[str]
) -> Prototypes:
    """Return prototypes without pictures: only the text part; image parts and counts are 0."""
    text = text_features(base, classes, templates).cpu().numpy()
    return PrototypeBuilder(text, pooled_width(base)).build()


def pooled_width(base: DualEncoder) -> int:
    """Return the width P of a base model's pooled features, which no base model states."""
    size = base.preprocessing.image_size
    return image_features(base, torch.zeros(1, 3, size, size)).pooled.shape[1]


def _noted_templates(note: ExportNote | None) -> tuple[str, ...]:
    return () if note is None else note.templates


def _noted_base(request: ImportRequest, note: ExportNote | None) -> str:
    """Return the base model for a registry that does not exist yet.

    A file may only name one that open_clip knows by a tag. The user must name anything else,
    above all a repository: an untrusted file must not cause downloads.
    """
    if note is None:
        return DEFAULT_BASE
    on_hub, local = note.base.startswith(HUB_PREFIX), is_checkpoint(note.base)
    if on_hub or local or note.base == note.architecture:
        named = note.base if on_hub else f"{note.architecture}:/path/to/weights"
        raise UsageError(
            f"{request.weights}: was fine-tuned from {note.base}, whose weights you must name",
            reason="base-to-be-named",
            path=request.weights,
            base=named,
        )
    return note.base


def _settle_image_size(request: ImportRequest, note: ExportNote | None, base: DualEncoder) -> int:
    prep = base.preprocessing
    size = request.image_size or (prep.image_size if note is None else note.image_size)
    if prep.fixed_size and size != prep.image_size:
        raise UsageError(
            f"{base.info.id} only accepts pictures of {prep.image_size} pixels, not {size}",
            reason="image-size-fixed",
            parameter="image_size",
            value=size,
            fixed=prep.image_size,
        )
    return size


def _routing_warnings(task: str, data: LabelledPictures | None) -> tuple[str, ...]:
    if data is not None:
        return ()
    return (
        f"task {task} has no pictures: next to tasks that have some, only its name or the router "
        "'paper' selects it",
    )


def _root(plan: ImportPlan) -> Path:
    assert plan.request.data is not None  # noqa: S101 - there are pictures
    return plan.request.data


def _record(plan: ImportPlan) -> dict[str, Any]:
    """Return how the expert was imported; without paths, since it travels with the registry."""
    data = plan.data
    record: dict[str, Any] = {
        "run": new_run(),
        "recipe": {"image_size": plan.image_size},
        "imported_from": visible(plan.request.weights.name),
        "weights_sha256": plan.weights_sha256,
        "distance": plan.distance,
        "folders": list(plan.folders),
        "train_images": 0,
        "test_images": 0,
        "versions": {"condu": __version__},
    }
    if data is not None:
        record |= {"train_images": len(data.train), "test_images": len(data.test)}
        record["test_fingerprint"] = fingerprint(data.test, data.folders)
        record["split"] = data.split
    return record
