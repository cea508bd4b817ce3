"""Types of the hint tables."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

Facts: TypeAlias = Mapping[str, object]
Hint: TypeAlias = str | Callable[[Facts], str]
"""A template for `str.format` with an error's facts, or a function that chooses one.

`{task!q}` is quoted for a shell; `{here}` repeats --registry if the user gave it.
"""


def registry_option(facts: Facts) -> str:
    """Return the option that names the folder of the registry at fault."""
    return "--keep" if facts.get("demo_registry") else "--registry"


def zero_shot_way(facts: Facts) -> str:
    """Return how to ask the base model alone, if the command at fault can."""
    if not facts.get("zero_shot_needs"):
        return ""
    return "; or ask the base model alone: --labels 'cat,dog'"
