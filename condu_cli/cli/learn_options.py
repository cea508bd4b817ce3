"""The options of `condu learn`, in the groups in which its help shows them."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from condu_cli.cli.options import DATA_HELP, PICTURES

RECIPE, RUNNING, REGISTRY = "Recipe", "Running", "If the registry is new"
"""Headings of the help."""


class Keep(str, Enum):
    """Which weights become the expert."""

    last = "last"
    best = "best"


class Precision(str, Enum):
    """Precision of the towers' arithmetic."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


def _option(panel: str, help_text: str, *names: str, **settings: Any) -> Any:
    return typer.Option(
        *names, help=help_text, rich_help_panel=panel, show_default=False, **settings
    )


TaskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--task", metavar="NAME", help="The task to learn; may be repeated.", show_default=False
    ),
]

# Pictures
LearnDataOption = Annotated[
    Path | None,
    _option(
        PICTURES,
        DATA_HELP,
        "--data",
        metavar="PATH",
    ),
]
TemplateOption = Annotated[
    list[str] | None,
    _option(
        PICTURES,
        "Prompt template; {} stands for the class. May be repeated; training uses the first.",
        "--template",
        metavar="TEXT",
    ),
]
ShotsOption = Annotated[
    int | None, _option(PICTURES, "Train on N pictures per class.", "--shots", metavar="N", min=1)
]
LimitOption = Annotated[
    int | None,
    _option(PICTURES, "Train on N pictures in all, balanced over classes.", "--limit", metavar="N"),
]
MaxUnreadableOption = Annotated[
    int | None,
    _option(
        PICTURES,
        "Skip up to N unreadable pictures. Default: 10, or 5 % if that is more.",
        "--max-unreadable",
        metavar="N",
        min=0,
    ),
]
PrototypeImagesOption = Annotated[
    int | None,
    _option(
        PICTURES,
        "Build each class's prototype from N pictures instead of all.",
        "--prototype-images",
        metavar="N",
        min=1,
    ),
]
WorkersOption = Annotated[
    int | None,
    _option(
        PICTURES,
        "Processes that decode pictures. Default: chosen by the size of the data set.",
        "--workers",
        metavar="N",
        min=0,
    ),
]

# Recipe
QuickOption = Annotated[
    bool,
    _option(
        RECIPE,
        "Stop after the head: an expert in seconds. Learning the task again goes on from it.",
        "--quick",
    ),
]
IterationsOption = Annotated[
    int | None, _option(RECIPE, "Training steps.", "--iterations", metavar="N", min=1)
]
EpochsOption = Annotated[
    float | None,
    _option(RECIPE, "Passes over the pictures, instead of --iterations.", "--epochs", metavar="X"),
]
LearningRateOption = Annotated[
    float | None, _option(RECIPE, "Peak learning rate.", "--lr", metavar="X", min=0.0)
]
BatchSizeOption = Annotated[
    int | None,
    _option(RECIPE, "Pictures per step, over all processes.", "--batch-size", metavar="N", min=1),
]
AccumulationOption = Annotated[
    int | None,
    _option(
        RECIPE,
        "Accumulate the gradient over N parts of a batch: less memory, same result.",
        "--accumulation",
        metavar="N",
        min=1,
    ),
]
WarmupOption = Annotated[
    int | None,
    _option(RECIPE, "Warm-up steps of the learning rate.", "--warmup", metavar="N", min=0),
]
WeightDecayOption = Annotated[
    float | None, _option(RECIPE, "AdamW's weight decay.", "--weight-decay", metavar="X", min=0.0)
]
ClipNormOption = Annotated[
    float | None,
    _option(
        RECIPE, "Clip the gradient to this norm; 0: never.", "--clip-norm", metavar="X", min=0.0
    ),
]
LabelSmoothingOption = Annotated[
    float | None,
    _option(RECIPE, "Label smoothing, 0 to 1.", "--label-smoothing", metavar="X"),
]
PrecisionOption = Annotated[
    Precision | None,
    _option(
        RECIPE, "Arithmetic precision. auto: bfloat16 on GPUs where it is faster.", "--precision"
    ),
]
ImageSizeOption = Annotated[
    int | None,
    _option(
        RECIPE,
        "Training resolution in pixels, if the base model accepts more than one.",
        "--image-size",
        metavar="N",
        min=16,
    ),
]
ValidateEveryOption = Annotated[
    int | None,
    _option(
        RECIPE,
        "Measure on held-out pictures every N steps.",
        "--validate-every",
        metavar="N",
        min=1,
    ),
]
ValidationShareOption = Annotated[
    float | None,
    _option(
        RECIPE,
        "Share of the training pictures to hold out. Default: 0.1 if anything is measured.",
        "--validation-share",
        metavar="X",
        min=0.0,
    ),
]
KeepOption = Annotated[
    Keep | None,
    _option(RECIPE, "Keep the weights of the last step, or the best measured.", "--keep"),
]
PatienceOption = Annotated[
    int | None,
    _option(
        RECIPE, "Stop after N measurements without improvement.", "--patience", metavar="N", min=1
    ),
]
SeedOption = Annotated[
    int | None,
    _option(
        RECIPE, "Random seed of sampling, held-out pictures and crops. Default: 0.", metavar="N"
    ),
]

# Running
DevicesOption = Annotated[
    int, _option(RUNNING, "Train in N processes, one per GPU.", "--devices", metavar="N", min=1)
]
SaveEveryOption = Annotated[
    int | None,
    _option(
        RUNNING,
        "Save the training every N steps. Default: every ten minutes.",
        "--save-every",
        metavar="N",
        min=1,
    ),
]
ResumeOption = Annotated[
    bool,
    _option(
        RUNNING,
        "Resume interrupted trainings and commit trained experts that were kept.",
        "--resume",
    ),
]
RetrainOption = Annotated[
    bool,
    _option(RUNNING, "Train from scratch even if a training of the task was kept.", "--retrain"),
]

# A registry that does not exist yet; all its other options belong to `condu init`
NewBaseOption = Annotated[
    str | None, _option(REGISTRY, "Base model. Default: mini.", "--base", metavar="ID")
]
