"""What to do about failures of the registry, its files, copies and history."""

from condu_cli.cli.hints.table import Hint

HINTS: dict[str, Hint] = {}
