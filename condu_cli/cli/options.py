"""Options that several commands share."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer


class RouterName(str, Enum):
    """How tasks are chosen when none is named."""

    pooled = "pooled"
    paper = "paper"


class RuleName(str, Enum):
    """Who answers, and among which labels."""

    own = "own"
    vote = "vote"
    labels = "labels"


RouterOption = Annotated[
    RouterName, typer.Option(help="How experts are chosen when no task is named.")
]
RuleOption = Annotated[
    RuleName | None,
    typer.Option(
        help="own: the nearest expert answers among its own classes. vote: the base model and the "
        "nearest experts vote. labels: the base model chooses among your labels, and where it "
        "chooses a learned class, the nearest expert. Default: vote with --experts, --router "
        "paper, or --labels that --task has not learned; labels with --labels; else own.",
        show_default=False,
    ),
]
ExpertsOption = Annotated[
    int, typer.Option("--experts", metavar="K", min=1, help="Ask the experts of the K best tasks.")
]
DeviceOption = Annotated[
    str, typer.Option(metavar="D", help="Where to compute: auto, cpu, cuda or mps.")
]
PICTURES = "Pictures"
"""Heading of the options about pictures in the help."""
SESSION_HELP = "A session: an id, a tag, or @~N (N before HEAD)."
DATA_HELP = (
    "A folder of pictures (train/CLASS and test/CLASS, or CLASS alone), a .csv, .tsv or .jsonl of "
    "paths and labels, or a saved Hugging Face data set."
)
DataOption = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help=DATA_HELP, show_default=False, rich_help_panel=PICTURES),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        help="Folder that holds the data sets; see condu tasks. Default: $CONDU_DATA.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
DownloadOption = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Download a missing public data set if possible.",
        rich_help_panel=PICTURES,
    ),
]
ClassNamesOption = Annotated[
    Path | None,
    typer.Option(
        "--class-names",
        metavar="FILE",
        help="Class names in words: JSON (folder to name, or a list) or one per line. "
        "Default: classes.json in DIR, else the folders' names.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
PREPARATION = "How a local checkpoint's pictures are prepared"
LORA = "LoRA"
"""Headings of their options in the help."""


def _of_preparation(metavar: str, text: str, *names: str) -> Any:
    return typer.Option(
        *names, metavar=metavar, help=text, show_default=False, rich_help_panel=PREPARATION
    )


ImageMeanOption = Annotated[
    str | None, _of_preparation("R,G,B", "Mean of the pictures' channels, on the 0..1 scale.")
]
ImageStdOption = Annotated[
    str | None, _of_preparation("R,G,B", "Standard deviation of the channels.")
]
ImageInterpolationOption = Annotated[
    str | None, _of_preparation("WORD", "How pictures are scaled: bicubic or bilinear.")
]
ImageResizeOption = Annotated[
    str | None,
    _of_preparation(
        "WORD",
        "How they become square: shortest (the longer side is cropped) or squash.",
        "--image-resize-mode",
    ),
]
RankOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="LoRA's rank. Default: depends on the base model.",
        show_default=False,
        rich_help_panel=LORA,
    ),
]
AlphaOption = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="LoRA's alpha; B A is scaled by X / rank. Default: the rank.",
        show_default=False,
        rich_help_panel=LORA,
    ),
]
LoraTargetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora-targets",
        metavar="GLOB",
        help="Layers to adapt, by name; may be repeated. Default: depends on the base model.",
        show_default=False,
        rich_help_panel=LORA,
    ),
]
FreezeAOption = Annotated[
    bool,
    typer.Option("--freeze-a", help="Train only LoRA's B factors; freeze A.", rich_help_panel=LORA),
]
LoraSeedOption = Annotated[
    int | None,
    typer.Option(
        "--lora-seed",
        metavar="N",
        min=0,
        help="Seed of the A factors that all tasks share. Default: 0.",
        show_default=False,
        rich_help_panel=LORA,
    ),
]
