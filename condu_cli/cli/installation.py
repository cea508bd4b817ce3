"""`condu doctor`: check the installation."""

import typer

from condu_cli.cli.command import Run, command
from condu_cli.cli.writing.output import Output


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app)(doctor)


def doctor(run: Run) -> None:
    """Check the installation, the base model and the registry."""
    from condu_cli.cli.hints.making import hint_for
    from condu_cli.workflows.opening.installation import examine

    checks = examine(run.registry_path)
    advice = {c.name: hint_for(c.failure, c.facts, run.settings.registry) for c in checks}
    failed = [check for check in checks if not check.ok]

    records = [
        {
            "name": c.name,
            "ok": c.ok,
            "detail": c.detail,
            "failure": c.failure,
            "advice": advice[c.name],
        }
        for c in checks
    ]

    def human(out: Output) -> None:
        rows = [["ok" if c.ok else "FAILED", c.name, c.detail] for c in checks]
        out.table(["", "what", "found"], rows)
        for check in failed:
            out.text(f"{check.name}: {advice[check.name]}")
        if not failed:
            out.text("No problems found.")

    run.out.document({"ok": not failed, "checks": records}, human)
    if failed:
        raise typer.Exit(1)
