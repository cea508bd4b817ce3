"""Options that several commands share."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class RouterName(str, Enum):
    """How tasks are chosen when none is named."""

    pooled = "pooled"
    paper = "paper"


RouterOption = Annotated[RouterName, typer.Option(help="How tasks are chosen when none is named.")]
ExpertsOption = Annotated[
    int, typer.Option("--experts", metavar="K", min=1, help="Ask the K best tasks' experts.")
]
DeviceOption = Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda or mps.")]
DATA_HELP = (
    "A folder of pictures (train/CLASS and test/CLASS, or CLASS alone), a .csv, .tsv or .jsonl of "
    "paths and labels, or a saved Hugging Face data set."
)
DataOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help=DATA_HELP, show_default=False)
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        help="Folder below which the data sets lie; see condu tasks. Default: $CONDU_DATA.",
        show_default=False,
    ),
]
DownloadOption = Annotated[
    bool,
    typer.Option("--download", help="Download a public data set that is not there, if possible."),
]
ClassNamesOption = Annotated[
    Path | None,
    typer.Option(
        "--class-names",
        metavar="FILE",
        help="Class names in words: JSON (folder to name, or a list) or one per line. "
        "Default: classes.json in DIR, else the folders' names.",
        show_default=False,
    ),
]
LORA = "LoRA"
"""Heading of its options in the help."""

RankOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="LoRA's rank. Default: the base model's own.",
        show_default=False,
        rich_help_panel=LORA,
    ),
]
AlphaOption = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="LoRA adds X / rank times B A. Default: the rank.",
        show_default=False,
        rich_help_panel=LORA,
    ),
]
LoraTargetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora-targets",
        metavar="GLOB",
        help="Layers that get factors, by name; may be repeated. Default: the base model's own.",
        show_default=False,
        rich_help_panel=LORA,
    ),
]
FreezeAOption = Annotated[
    bool,
    typer.Option(
        "--freeze-a", help="Train LoRA's B factors alone; A stays as drawn.", rich_help_panel=LORA
    ),
]
LoraSeedOption = Annotated[
    int | None,
    typer.Option(
        "--lora-seed",
        metavar="N",
        min=0,
        help="Seed of LoRA's A factors, the same for all tasks. Default: 0.",
        show_default=False,
        rich_help_panel=LORA,
    ),
]
