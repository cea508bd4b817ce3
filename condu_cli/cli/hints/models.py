"""What to do about failures of base models, LoRA and devices."""

from condu_cli.cli.hints.table import Hint

HINTS: dict[str, Hint] = {}
