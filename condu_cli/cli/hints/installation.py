"""Hints about what `doctor` and `verify` find."""

from condu_cli.cli.hints.table import Hint

HINTS: dict[str, Hint] = {
    "library-slow": "Run condu doctor again when the machine is less busy",
    "library-damaged": "pip install --force-reinstall {package!q}",
    "torchvision-of-other-build": "torch and torchvision come from different builds (CPU-only and "
    "CUDA); install both from the same source: pip uninstall -y torch torchvision && pip install "
    "torch torchvision",
    "disk-full": "Free some space on the disk of {path}",
    "database-unsound": "Restore condu.sqlite from a backup",
}
