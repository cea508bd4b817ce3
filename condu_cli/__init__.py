"""condu: one CLIP model, many image tasks, nothing forgotten."""

from condu_cli._version import __version__

__all__ = ["__version__"]
