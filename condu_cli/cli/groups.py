"""The groups in which `condu --help` shows the commands, and their order: most used first."""

import typer

GROUPS: dict[str, tuple[str, ...]] = {
    "Start": ("demo", "init", "tasks", "bases", "doctor"),
    "Teach and ask": ("learn", "predict", "evaluate", "ls", "forget", "rename"),
    "History": ("log", "rollback", "show", "diff", "tag"),
    "Upkeep": ("storage-report", "gc", "verify", "backup"),
    "Move models": ("export", "import"),
}
_ORDER = {name: index for index, name in enumerate(n for group in GROUPS.values() for n in group)}
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def arrange(app: typer.Typer) -> None:
    """Give every registered command its group, and sort them; KeyError for one without a group."""
    for found in app.registered_commands:
        found.rich_help_panel = _GROUP_OF[found.name or ""]
    app.registered_commands.sort(key=lambda found: _ORDER[found.name or ""])
