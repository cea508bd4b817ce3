"""How a codec's options, parts and records are written for people."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from condu_cli.cli.writing.wording import percent

if TYPE_CHECKING:
    from condu_cli.registry.manifest import RegistryConfig, Session


class Figure(NamedTuple):
    """One key of a codec's record: what it is called, how written, and whether `ls` has room."""

    name: str
    form: str = "{:.6g}"
    listed: bool = True


class StateWords(NamedTuple):
    """What the parts of a state are called: the shared one, one task's, and those of all tasks."""

    shared: str
    part: str
    parts: str


FIGURES: Mapping[str, Figure] = {
    "rescaler": Figure("rescaler", "{:.{digits}f}"),
    "mask_density": Figure("mask density", "share"),
    "l1_norm": Figure("L1 norm of delta", listed=False),
}
"""The keys that are written in a way of their own, in the order of columns and lines."""

CONDU = StateWords("unified delta", "mask", "masks and rescalers")
ANY_CODEC = StateWords("shared part", "expert", "experts")


def words_of(config: "RegistryConfig", session: "Session | None") -> StateWords:
    """What the parts of a session's state are called."""
    codec = config.codec if session is None or session.codec is None else session.codec
    return CONDU if codec.name == "condu" else ANY_CODEC


def options_line(codec: str, options: Mapping[str, Any]) -> str:
    """A codec and its options in one line."""
    if codec == "condu" and {"dtype", "rescaler"} == options.keys():
        return f"unified delta in {options['dtype']}, rescalers: {options['rescaler']}"
    named = ", ".join(f"{name} {value}" for name, value in sorted(options.items()))
    return f"codec {codec}" + (f": {named}" if named else "")


def keys_of(records: Iterable[Mapping[str, Any]], *, listed: bool = False) -> list[str]:
    """The keys of some records in the order of columns; `listed`, only those for a table."""
    found = {key for record in records for key in record}
    if listed:
        found -= {key for key, figure in FIGURES.items() if not figure.listed}
    return [key for key in FIGURES if key in found] + sorted(found - FIGURES.keys())


def key_name(key: str) -> str:
    """What a key of a record is called."""
    return FIGURES[key].name if key in FIGURES else key.replace("_", " ")


def figure(record: Mapping[str, Any], key: str, digits: int = 3) -> str:
    """One value of a record, a dash where it has none; a factor with so many decimals."""
    value = record.get(key)
    form = FIGURES[key].form if key in FIGURES else Figure(key).form
    if value is None or form == "share":
        return percent(value)
    return form.format(value, digits=digits) if isinstance(value, float) else str(value)
