"""What to do about failures of pictures, lists and class names."""

from condu_cli.cli.hints.table import Hint

HINTS: dict[str, Hint] = {}
