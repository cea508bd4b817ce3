"""What to do about failures of import and export."""

from condu_cli.cli.hints.table import Hint

HINTS: dict[str, Hint] = {}
