"""`condu export` and `import`: move models and whole registries."""

from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.command import Run, command
from condu_cli.cli.options import DeviceOption
from condu_cli.cli.writing.output import Output
from condu_cli.cli.writing.wording import duration, plural, size

if TYPE_CHECKING:
    from condu_cli.workflows.transfers.archiving import ArchiveSummary
    from condu_cli.workflows.transfers.exporting import ExportSummary
    from condu_cli.workflows.transfers.importing import ImportPlan, ImportRequest, ImportSummary


class ExportFormat(str, Enum):
    """How an expert is written."""

    checkpoint = "checkpoint"
    peft = "peft"


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app, writes=True)(export)
    command(app, "import", changes=True)(import_)


def export(
    run: Run,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The file to write.")
    ],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Export this task's expert as a checkpoint (.safetensors) that open_clip loads.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        bool, typer.Option("--base", help="Export the base model as a checkpoint.")
    ] = False,
    session: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="The expert as of this session. Default: HEAD.", show_default=False
        ),
    ] = None,
    form: Annotated[
        ExportFormat | None,
        typer.Option(
            "--format",
            help="For a LoRA expert: a merged checkpoint (the default), or a PEFT adapter folder.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
) -> "ExportSummary | None":
    """Export an expert, the base model, or the whole registry.

    With neither --task nor --base, the whole registry is exported as one archive. Exported files
    contain no paths from this machine.
    """
    from condu_cli.errors import UsageError

    if task is not None and base:
        raise UsageError("use only one of --task and --base", reason="export-kinds")
    if session is not None and task is None:
        raise UsageError("--session needs --task", reason="export-kinds")
    if form is not None and task is None:
        raise UsageError("--format needs --task", reason="export-kinds")
    if task is None and not base:
        _export_registry(run, output, overwrite=force)
        return None
    peft = form is ExportFormat.peft
    summary = _export_model(run, task, session, output, peft=peft, overwrite=force)
    if not summary.load:  # no other library can load this model
        load = run.out.filled(
            "condu import --task NAME --weights {path!q}{here}", path=summary.path
        )
        summary = replace(summary, load=load)
    if summary.head_path is not None:
        weights = "adapter" if peft else "checkpoint"
        run.out.note(
            f"the {weights} alone classifies by class texts: the expert's head, by which condu "
            f"classifies, is in {summary.head_path}; keep both together"
        )
    run.out.document(asdict(summary), lambda out: _print_export(out, summary))
    return summary


def _export_model(
    run: Run, task: str | None, session: str | None, output: Path, *, peft: bool, overwrite: bool
) -> "ExportSummary":
    """Export one expert, or the base model if no task is named."""
    from condu_cli.errors import NotFoundError
    from condu_cli.workflows.opening.workspace import Workspace
    from condu_cli.workflows.transfers.exporting import export_adapter, export_base, export_expert

    registry = run.open_registry()
    workspace = Workspace(registry)
    if task is None:
        return export_base(workspace, output, overwrite=overwrite)
    found = workspace.head() if session is None else registry.resolve(session)
    if found is None:
        raise NotFoundError(
            f"there are no tasks before the first session ({session})",
            reason="empty-state-not-exported",
        )
    write = export_adapter if peft else export_expert
    return write(workspace, found, task, output, overwrite=overwrite)


def _export_registry(run: Run, output: Path, *, overwrite: bool) -> None:
    from condu_cli.workflows.transfers.archiving import export_registry

    registry = run.open_registry()
    summary = export_registry(registry, output, overwrite=overwrite)
    for warning in summary.warnings:
        run.out.warning(warning)

    def human(out: Output) -> None:
        out.text(f"Exported the registry at {registry.path} to {output} ({size(summary.size)})")
        out.text(f"{plural(summary.sessions, 'session')}, {plural(len(summary.tasks), 'task')}")
        out.hint(
            "condu import {path!q} --registry NEW_FOLDER imports it as a new registry", path=output
        )

    run.out.document(_archive_record(summary), human)


def _archive_record(summary: "ArchiveSummary") -> dict[str, Any]:
    return {**asdict(summary), "path": str(summary.path), "kind": "registry"}


def _print_export(out: Output, summary: "ExportSummary") -> None:
    from condu_cli.registry.manifest import short_id

    what = (
        f"base model {summary.base}"
        if summary.task is None
        else f"task {summary.task} of session {short_id(summary.session or '')}"
    )
    out.text(f"Exported {what} to {summary.path} ({size(summary.bytes)})")
    if summary.head_path is not None:
        out.text(f"and its head to {summary.head_path} ({size(summary.head_bytes)})")
    out.text(f"load it with  {summary.load}")
    if summary.task is not None:
        out.hint("condu import --task NAME --weights {path!q}{here} imports it", path=summary.path)


def import_(
    run: Run,
    archive: Annotated[
        Path | None,
        typer.Argument(
            metavar="ARCHIVE",
            help="A whole registry from `condu export`; it is created at --registry.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the new task.", show_default=False),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A checkpoint (.safetensors, .pt, .pth, .bin) fine-tuned from the base model. For "
            "a LoRA registry: a PEFT adapter folder.",
            show_default=False,
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(
            "--class-names",
            metavar="FILE",
            help="Class names in words: JSON (folder to name, or a list) or one per line. "
            "Default: those in the checkpoint's metadata, else those of DIR.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Pictures of the classes, for the prototypes. Default: text alone.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Prompt template; {} stands for the class. May be repeated.",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            min=16,
            help="Resolution of the training pictures.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Base model if the registry is new. For an ARCHIVE: where its weights are.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> "ImportSummary | None":
    """Import a checkpoint as a task, or a whole registry.

    The checkpoint must have been fine-tuned from the registry's base model. Nothing is trained.
    """
    from condu_cli.errors import UsageError

    others = (task, weights, class_names, data, template, image_size)
    if archive is not None:
        if any(value is not None for value in others):
            raise UsageError(
                f"{archive} is read as a whole registry; the other options belong to one task",
                reason="archive-with-options",
                path=archive,
            )
        _import_registry(run, archive, base)
        return None
    if task is None or weights is None:
        missing = "--weights FILE" if weights is None else "--task NAME"
        raise UsageError(
            f"import needs an ARCHIVE, or --task and --weights: {missing} is missing",
            reason="import-incomplete",
        )
    from condu_cli.backbone.devices import resolve_device
    from condu_cli.workflows.transfers.importing import ImportRequest

    request = ImportRequest(
        task=task,
        weights=weights,
        class_names=class_names,
        data=data,
        templates=tuple(template or ()),
        image_size=image_size,
        base=base,
        device=resolve_device(device),
    )
    return _import_expert(run, request)


def _import_expert(run: Run, request: "ImportRequest") -> "ImportSummary | None":
    from condu_cli.workflows.transfers.importing import Importer

    planned = Importer(run.registry_path, request).plan()
    plan = planned.plan
    if run.settings.dry_run:
        for warning in plan.warnings:
            run.out.warning(warning)
        run.out.document(_plan_record(plan), lambda out: _print_plan(out, plan))
        return None
    with run.out.progress(json_events=True) as on_progress:
        summary = planned.run(on_progress)
    for warning in summary.warnings:
        run.out.warning(warning)
    run.out.document(asdict(summary), lambda out: _print_import(out, summary))
    return summary


def _import_registry(run: Run, archive: Path, base: str | None) -> None:
    from condu_cli.errors import UsageError
    from condu_cli.workflows.transfers.archiving import import_registry

    if run.settings.dry_run:
        raise UsageError(
            "--dry-run applies to a single task, not to a whole registry", reason="no-dry-run"
        )
    path = run.registry_path
    summary = import_registry(archive, path, base)
    for warning in summary.warnings:
        run.out.warning(warning)

    def human(out: Output) -> None:
        out.text(f"Imported {archive} to the new registry {path}")
        out.text(
            f"{plural(summary.sessions, 'session')}, tasks: {', '.join(summary.tasks) or 'none'}; "
            f"base model {summary.base_id}"
        )
        out.hint(
            "condu ls --registry {path!q} lists its tasks; to undo this, remove that folder",
            path=path,
        )

    run.out.document(_archive_record(summary), human)


def _plan_record(plan: "ImportPlan") -> dict[str, Any]:
    from condu_cli.backbone.weight_files import head_file

    return {
        "dry_run": True,
        "task": plan.request.task,
        "base": plan.base_id,
        "weights": str(plan.request.weights),
        "weights_sha256": plan.weights_sha256,
        "head_path": None if plan.head is None else str(head_file(plan.request.weights)),
        "distance": plan.distance,
        "classes": list(plan.classes),
        "templates": list(plan.templates),
        "image_size": plan.image_size,
        "data": None if plan.request.data is None else str(plan.request.data),
        "images": 0 if plan.data is None else len(plan.data.train),
        "creates_registry": plan.creates_registry,
        "warnings": list(plan.warnings),
    }


def _print_plan(out: Output, plan: "ImportPlan") -> None:
    record = _plan_record(plan)
    del record["warnings"]  # printed separately
    for name, value in record.items():
        out.text(f"{name:18} {value}")
    out.note("Nothing was written (--dry-run).")


def _print_import(out: Output, summary: "ImportSummary") -> None:
    from condu_cli.registry.manifest import short_id

    classes = f"{summary.classes} classes"
    images = plural(summary.images, "picture") if summary.images else "text alone"
    head = "" if summary.head_from is None else f" with the head in {summary.head_from}"
    out.text(
        f"Imported {summary.task} from {summary.imported_from}{head} in session "
        f"{short_id(summary.session)}: {classes}, prototypes from {images}; the registry holds "
        f"{plural(summary.tasks, 'task')}"
    )
    out.text(
        f"distance from the base model: {summary.distance:.4f} of its norm; unify "
        f"{duration(summary.unify_seconds)}, commit {duration(summary.commit_seconds)}"
    )
    out.hint(
        "condu predict --task {task!q} PATH{here} uses it; condu rollback{here} undoes it",
        task=summary.task,
    )
