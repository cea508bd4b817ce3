"""`condu init` and `condu storage-report`: one registry as a whole."""

from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from condu_cli.cli.output import Output
from condu_cli.cli.run import Run, command
from condu_cli.cli.wording import size

if TYPE_CHECKING:
    from condu_cli.workflows.storage import StorageReport


class Method(str, Enum):
    """How experts are fine-tuned; LoRA will join it."""

    full = "full"


class Dtype(str, Enum):
    """How the unified delta is stored; smaller types will join it."""

    float32 = "float32"


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app, changes=True)(init)
    command(app, "storage-report")(storage_report)


def init(
    run: Run,
    base: Annotated[
        str, typer.Option(metavar="ID", help="Base model, see `condu bases`.")
    ] = "mini",
    method: Annotated[Method, typer.Option(help="Fine-tuning method.")] = Method.full,
    dtype: Annotated[
        Dtype, typer.Option(help="Storage type of the unified delta.")
    ] = Dtype.float32,
) -> None:
    """Create an empty registry for one base model."""
    from condu_cli.backbone.catalog import load_base
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.opening import refuse_existing
    from condu_cli.workflows.workspace import new_config

    path = run.registry_path
    refuse_existing(path)
    model = load_base(base)
    config = new_config(model, method.value)
    if not run.settings.dry_run:
        Registry.create(path, config)
    data = {
        "registry": str(path),
        "base": asdict(model.info),
        "method": method.value,
        "codec": config.codec,
        "parameters": config.parameter_count,
        "dry_run": run.settings.dry_run,
    }

    def human(out: Output) -> None:
        verb = "Would create" if run.settings.dry_run else "Created"
        millions = config.parameter_count / 1e6
        out.text(f"{verb} a registry at {path}")
        out.text(f"base model {base}, {millions:.1f} M trainable parameters")
        out.hint("condu learn --task NAME --data DIR teaches it a task")

    run.out.document(data, human)


def storage_report(run: Run) -> None:
    """Show what lies on disk, beside one full checkpoint per task."""
    from condu_cli.workflows.storage import report

    registry = run.open_registry()
    found = report(registry)
    run.out.document(asdict(found), lambda out: _print_report(out, found, str(registry.path)))


def _print_report(out: Output, found: "StorageReport", path: str) -> None:
    from condu_cli.workflows.storage import PAPER_MEGABYTES, PAPER_TASKS

    out.table(
        ["what", ">bytes", ">size"],
        [
            _row("unified delta", found.unified_bytes),
            _row("masks and rescalers", found.mask_bytes),
            _row("prototypes", found.prototype_bytes),
            _row("history (older sessions)", found.history_bytes),
            _row("database and other files", found.metadata_bytes),
            _row(f"total ({len(found.files)} files)", found.total_bytes),
        ],
        title=path,
    )
    out.hint("storage-report --json names every file with its bytes and the line it counts in")
    if not found.tasks:
        return
    out.table(
        ["task", ">masks", ">prototypes"],
        [[t.task, size(t.part_bytes), size(t.prototype_bytes)] for t in found.tasks],
    )
    state = found.unified_bytes + found.mask_bytes + found.prototype_bytes
    ratio = found.individual_ft_bytes / state
    out.text(
        f"{len(found.tasks)} full checkpoints of the base model would take "
        f"{size(found.individual_ft_bytes)}; the current session takes {size(state)} "
        f"(ratio {ratio:.1f})."
    )
    paper = PAPER_MEGABYTES
    out.text(
        f"The paper, {PAPER_TASKS} tasks on ViT-B/16: {paper['unified delta']:.0f} MB unified "
        f"delta + {paper['masks']:.0f} MB masks, against "
        f"{paper['individual fine-tuning']:.0f} MB of checkpoints."
    )


def _row(name: str, count: int) -> list[str]:
    return [name, f"{count:,}", size(count)]
