"""`condu doctor`: check the installation."""

from dataclasses import asdict

import typer

from condu_cli.cli.command import Run, command
from condu_cli.cli.output import Output


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app)(doctor)


def doctor(run: Run) -> None:
    """Check the installation, the base model and the registry."""
    from condu_cli.workflows.opening.installation import examine

    checks = examine(run.registry_path)
    failed = [check for check in checks if not check.ok]

    def human(out: Output) -> None:
        rows = [["ok" if c.ok else "FAILED", c.name, c.detail] for c in checks]
        out.table(["", "what", "found"], rows)
        for check in failed:
            out.text(f"{check.name}: {check.advice}")
        if not failed:
            out.text("Everything is in order.")

    run.out.document({"ok": not failed, "checks": [asdict(c) for c in checks]}, human)
    if failed:
        raise typer.Exit(1)
