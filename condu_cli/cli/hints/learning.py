"""What to do about failures of learning, evaluating and predicting."""

from condu_cli.cli.hints.table import Hint

HINTS: dict[str, Hint] = {}
