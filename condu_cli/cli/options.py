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
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of pictures: train/CLASS and test/CLASS, or CLASS alone.",
        show_default=False,
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
    ),
]
