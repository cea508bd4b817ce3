"""Display names and formats for a codec's options, parts and records."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from condu_cli.cli.writing.wording import percent

if TYPE_CHECKING:
    from condu_cli.registry.manifest import RegistryConfig, Session


class Figure(NamedTuple):
    """How to show one key of a codec's record: name, format, and whether `ls` lists it."""

    name: str
    form: str = "{:.6g}"
    listed: bool = True


class StateWords(NamedTuple):
    """Names for the parts of a state: the shared part, one task's part, all tasks' parts."""

    shared: str
    part: str
    parts: str


FIGURES: Mapping[str, Figure] = {
    "rescaler": Figure("rescaler", "{:.{digits}f}"),
    "mask_density": Figure("mask density", "share"),
    "l1_norm": Figure("L1 norm of delta", listed=False),
}
"""Keys with their own name or format, in display order."""

CONDU = StateWords("unified delta", "mask", "masks, rescalers, exact")
ANY_CODEC = StateWords("shared part", "expert", "experts")


def words_of(config: "RegistryConfig", session: "Session | None") -> StateWords:
    """Return the names for the parts of a session's state."""
    codec = config.codec if session is None or session.codec is None else session.codec
    return CONDU if codec.name == "condu" else ANY_CODEC


def options_line(codec: str, options: Mapping[str, Any]) -> str:
    """Describe a codec and its options in one line."""
    if codec == "condu" and {"dtype", "rescaler"} <= options.keys():
        exact = str(options.get("exact", "")).replace(",", ", ") or "nothing"
        return (
            f"unified delta in {options['dtype']}, rescalers: {options['rescaler']}, "
            f"exact: {exact}, trimmed: {percent(float(options.get('trim', 0)))}"
        )
    named = ", ".join(f"{name} {value}" for name, value in sorted(options.items()))
    return f"codec {codec}" + (f": {named}" if named else "")


def keys_of(records: Iterable[Mapping[str, Any]], *, listed: bool = False) -> list[str]:
    """Return the keys of some records in display order; `listed`: only those for tables."""
    found = {key for record in records for key in record}
    if listed:
        found -= {key for key, figure in FIGURES.items() if not figure.listed}
    return [key for key in FIGURES if key in found] + sorted(found - FIGURES.keys())


def key_name(key: str) -> str:
    """Return the display name of a record's key."""
    return FIGURES[key].name if key in FIGURES else key.replace("_", " ")


def figure(record: Mapping[str, Any], key: str, digits: int = 3) -> str:
    """Format one value of a record, a dash if it is missing; `digits` are a factor's decimals."""
    value = record.get(key)
    form = FIGURES[key].form if key in FIGURES else Figure(key).form
    if value is None or form == "share":
        return percent(value)
    return form.format(value, digits=digits) if isinstance(value, float) else str(value)
