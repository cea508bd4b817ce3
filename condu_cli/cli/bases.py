"""`condu bases`: the base models that a registry can be made for."""

from dataclasses import asdict

import typer

from condu_cli.cli.command import Run, command
from condu_cli.cli.writing.output import Output


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app)(bases)


def bases(run: Run) -> None:
    """List the base models.

    Any open_clip architecture works: NAME:TAG or NAME:/path/weights.safetensors.
    """
    from condu_cli.backbone.base_models import CATALOG

    rows = [
        (
            entry.id,
            f"{entry.parameters_millions:.1f} M",
            "downloaded once" if entry.needs_network else "embedded",
            entry.description,
        )
        for entry in CATALOG
    ]

    def human(out: Output) -> None:
        out.table(["base model", ">parameters", "weights", "what it is"], rows)
        out.hint(
            "condu init --base ID{here} takes any open_clip model: NAME:TAG or "
            "NAME:/path/weights.safetensors"
        )

    run.out.document([asdict(entry) for entry in CATALOG], human)
