"""Fill hint templates with facts and the user's --registry."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any


def filled(template: str, facts: Mapping[str, object], registry: Path | None) -> str:
    """Fill in facts; `{here}` becomes --registry as the user gave it, or nothing."""
    here = "" if registry is None else f" --registry {shlex.quote(str(registry))}"
    return _TEXT.vformat(template, (), {**facts, "here": here})


class _Text(Formatter):
    """Templates with facts: lists are joined, `{task!q}` is quoted for a shell.

    A missing fact is written in capitals, as in usage lines: `--task TASK`.
    """

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        value = kwargs.get(str(key))
        return str(key).upper() if value is None else value

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion == "q":
            return shlex.quote(str(value))
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, list):
            return ", ".join(map(str, value))
        return str(super().format_field(value, format_spec))


_TEXT = _Text()
