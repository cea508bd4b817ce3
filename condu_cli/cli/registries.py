"""`condu init` and `condu storage-report`: one registry as a whole."""

from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.command import Run, command
from condu_cli.cli.options import (
    AlphaOption,
    FreezeAOption,
    ImageInterpolationOption,
    ImageMeanOption,
    ImageResizeOption,
    ImageStdOption,
    LoraSeedOption,
    LoraTargetsOption,
    RankOption,
)
from condu_cli.cli.writing.codec_words import StateWords, options_line, words_of
from condu_cli.cli.writing.output import Output
from condu_cli.cli.writing.wording import method_line, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condu_cli.registry.storage import StorageReport


NOTHING = "none"
"""The value of --exact that keeps nothing exactly."""
TRIM = "0.5"
PAPER_TASKS = 11
MEBIBYTE = 2**20
PAPER_BYTES = {
    "unified delta": 570.86 * MEBIBYTE,
    "masks": 196.2 * MEBIBYTE,
    "individual fine-tuning": 6279.46 * MEBIBYTE,
}
"""ConDU (arXiv 2503.10705), storage of 11 tasks on ViT-B/16, full fine-tuning. The paper writes
MB; its figures are 4 bytes, and 11 bits, for each of 149.6 M parameters in units of 2**20."""


class Method(str, Enum):
    """How experts are fine-tuned: the weights themselves, or LoRA factors beside them."""

    full = "full"
    lora = "lora"


class Train(str, Enum):
    """Which of the base model's parameters are trained."""

    whole = "whole"
    image = "image"
    text = "text"


class Dtype(str, Enum):
    """How the unified delta is stored."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


class Rescaler(str, Enum):
    """Which parameters share a rescaler."""

    all = "global"
    tensor = "tensor"
    row = "row"


class Compat(str, Enum):
    """Whose choices to follow where they differ from condu's."""

    paper = "paper"


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app, changes=True)(init)
    command(app, "storage-report")(storage_report)


def init(
    run: Run,
    base: Annotated[
        str, typer.Option(metavar="ID", help="Base model; `condu bases` lists them.")
    ] = "mini",
    image_mean: ImageMeanOption = None,
    image_std: ImageStdOption = None,
    image_interpolation: ImageInterpolationOption = None,
    image_resize_mode: ImageResizeOption = None,
    method: Annotated[
        Method, typer.Option(help="Fine-tune all weights, or LoRA factors.")
    ] = Method.full,
    rank: RankOption = None,
    alpha: AlphaOption = None,
    lora_targets: LoraTargetsOption = None,
    freeze_a: FreezeAOption = False,
    lora_seed: LoraSeedOption = None,
    train: Annotated[
        Train, typer.Option(help="Train both towers, or freeze one of them.")
    ] = Train.whole,
    dtype: Annotated[
        Dtype, typer.Option(help="Storage type of the unified delta.")
    ] = Dtype.float32,
    rescaler: Annotated[
        Rescaler | None,
        typer.Option(
            help="One rescaler per task, tensor or row (output channel). Default: row.",
            show_default=False,
        ),
    ] = None,
    exact: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            help="Parameters that each task keeps exactly, separated by commas: vectors, "
            "depthwise, names, or none. Default: vectors, depthwise and the image projection; "
            "none with LoRA.",
            show_default=False,
        ),
    ] = None,
    trim: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            help="Drop this share of each row of a new expert's delta, the smallest values. "
            f"Default: {TRIM}; 0 with LoRA.",
            show_default=False,
        ),
    ] = None,
    compat: Annotated[
        Compat | None,
        typer.Option(
            help="Follow the paper: one global rescaler, nothing exact, nothing trimmed.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Create an empty registry for one base model.

    These options cannot be changed later. docs/method.md and docs/fusion.md compare them.
    """
    from condu_cli.backbone.base_models import load_base, prepared_by_hand
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.opening.paradigms import lora_options, summary_of
    from condu_cli.workflows.opening.registry_only import refuse_existing
    from condu_cli.workflows.opening.workspace import new_config

    path = run.registry_path
    preparation = _preparation(image_mean, image_std, image_interpolation, image_resize_mode)
    options = _codec_options(dtype, rescaler, exact, trim)
    if compat is not None:
        _refuse_contradictions(options)
    lora = lora_options(
        method.value,
        rank=rank,
        alpha=alpha,
        targets=lora_targets or (),
        freeze_a=freeze_a,
        seed=lora_seed,
    )
    refuse_existing(path)
    model = prepared_by_hand(load_base(base), preparation)
    config = new_config(
        model, method.value, options, train.value, lora, None if compat is None else compat.value
    )
    if not run.settings.dry_run:
        Registry.create(path, config)
    data = {
        "registry": str(path),
        "base": asdict(model.info),
        "method": method.value,
        "method_options": dict(config.method_options),
        "codec": config.codec.name,
        "codec_options": dict(config.codec.options),
        "parameters": config.parameter_count,
        "dry_run": run.settings.dry_run,
    }

    def human(out: Output) -> None:
        verb = "Would create" if run.settings.dry_run else "Created"
        out.text(f"{verb} a registry at {path}")
        out.text(f"base model {base}, {method_line(summary_of(config))}")
        out.text(f"pictures are prepared with {model.preprocessing.preparation.words()}")
        out.text(options_line(config.codec.name, config.codec.options))
        out.hint("condu learn --task NAME --data DIR{here} teaches it a task")

    run.out.document(data, human)
    if model.assumption:
        run.out.assumption(model.assumption)


def _preparation(
    mean: str | None, std: str | None, interpolation: str | None, resize_mode: str | None
) -> dict[str, Any]:
    """Return the values of a `Preparation` that were given, by name."""
    given = {
        "mean": None if mean is None else _numbers("--image-mean", mean),
        "std": None if std is None else _numbers("--image-std", std),
        "interpolation": interpolation,
        "resize_mode": resize_mode,
    }
    return {name: value for name, value in given.items() if value is not None}


def _numbers(option: str, text: str) -> tuple[float, ...]:
    from condu_cli.errors import UsageError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as exc:
        raise UsageError(
            f"{option} is three numbers separated by commas, not '{text}'",
            reason="preparation-invalid",
        ) from exc


def _codec_options(
    dtype: Dtype, rescaler: Rescaler | None, exact: str | None, trim: float | None
) -> dict[str, str]:
    """Return the options that were given; the codec has defaults for the others."""
    options = {"dtype": dtype.value}
    if rescaler is not None:
        options["rescaler"] = rescaler.value
    if exact is not None:
        words = [word.strip() for word in exact.split(",")]
        options["exact"] = "" if words == [NOTHING] else ",".join(words)
    if trim is not None:
        options["trim"] = f"{trim:.9f}".rstrip("0").rstrip(".")
    return options


def _refuse_contradictions(options: "Mapping[str, str]") -> None:
    """Refuse options of the codec that are not the paper's."""
    from condu_cli.core.codecs.known import PAPER_OPTIONS
    from condu_cli.errors import UsageError

    for option, wanted in PAPER_OPTIONS.items():
        given = options.get(option, wanted)
        if given != wanted:
            raise UsageError(
                f"--compat paper means --{option} {wanted or NOTHING}, not {given}",
                reason="compat-contradicted",
            )


def storage_report(run: Run) -> None:
    """Show disk usage compared with one full checkpoint per task."""
    from condu_cli.registry.storage import measure

    registry = run.open_registry()
    found = measure(registry)
    words = words_of(registry.config, registry.head())
    run.out.document(
        asdict(found), lambda out: _print_report(out, found, str(registry.path), words)
    )


def _print_report(out: Output, found: "StorageReport", path: str, words: StateWords) -> None:
    out.table(
        ["what", ">bytes", ">size"],
        [
            _row(words.shared, found.unified_bytes),
            _row(words.parts, found.mask_bytes),
            _row("prototypes", found.prototype_bytes),
            *([_row("heads", found.head_bytes)] if found.head_bytes else []),
            _row("history (older sessions)", found.history_bytes),
            _row("trained, not committed", found.trained_bytes),
            _row("unfinished trainings", found.run_bytes),
            _row("database and other files", found.metadata_bytes),
            _row(f"total ({len(found.files)} files)", found.total_bytes),
        ],
        title=path,
    )
    out.hint("condu storage-report --json{here} lists every file with its size and category")
    if not found.tasks:
        return
    _print_tasks(out, found, words)
    state = found.unified_bytes + found.mask_bytes + found.prototype_bytes + found.head_bytes
    if not state:
        out.warning("the current session has no files: blobs/ is missing or empty")
        return
    ratio = found.individual_ft_bytes / state
    out.text(
        f"{len(found.tasks)} full checkpoints of the base model would take "
        f"{size(found.individual_ft_bytes)}; the current session takes {size(state)} "
        f"(ratio {ratio:.1f})."
    )
    paper = PAPER_BYTES
    out.text(
        f"The paper, {PAPER_TASKS} tasks on ViT-B/16: {size(paper['unified delta'])} unified "
        f"delta + {size(paper['masks'])} masks, against "
        f"{size(paper['individual fine-tuning'])} of checkpoints."
    )


def _print_tasks(out: Output, found: "StorageReport", words: StateWords) -> None:
    heads = [">head"] if found.head_bytes else []
    rows = [
        [t.task, size(t.part_bytes), size(t.prototype_bytes)]
        + ([size(t.head_bytes) if t.head_bytes else "-"] if heads else [])
        for t in found.tasks
    ]
    out.table(["task", f">{words.parts}", ">prototypes", *heads], rows)


def _row(name: str, count: int) -> list[str]:
    return [name, f"{count:,}", size(count)]
