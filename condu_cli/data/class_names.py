"""Class names in words: from a file, or from the names of folders and labels."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING

from condu_cli.errors import DataError, UsageError
from condu_cli.texts import complaint, composed, decoded, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CLASS_NAMES_FILE = "classes.json"
MANY_DIGITS = 1000
"""More than any number in a name has."""


def class_names_for(
    folders: Sequence[str], given: Path | None, beside: Path, what: str = "class folders"
) -> tuple[str, ...]:
    """Return the names of class folders or labels, in order.

    They come from the given file, else from `classes.json` in the folder `beside`, else from the
    folders' own names, with spaces for underscores.

    Raises:
        DataError: the file cannot be read, does not match the folders, or has a name twice.

    """
    refuse_odd_text(folders, "class", beside)
    file = given or beside / CLASS_NAMES_FILE
    if given is None and not file.is_file():
        return _distinct(beside, tuple(plain_name(name) for name in folders))
    names = read_class_names(file)
    if isinstance(names, dict):
        return _distinct(file, names_by_class(file, names, folders, "every class folder"))
    return _by_position(file, _distinct(file, tuple(names)), folders, what)


def plain_name(folder: str) -> str:
    """Return a class's name in words if only its folder names it."""
    return composed(folder.replace("_", " "))


def _by_position(
    file: Path, names: Sequence[str], folders: Sequence[str], what: str
) -> tuple[str, ...]:
    """Pair a list of names with folders: numbers by their values, words alphabetically.

    Raises:
        DataError: another number of names, or an order that may have been meant otherwise.

    """
    if len(names) != len(folders):
        raise DataError(
            f"{file}: {len(names)} class names for {len(folders)} {what}",
            reason="class-names-differ-in-number",
            path=file,
            names=len(names),
            classes=len(folders),
        )
    numbers = all(folder.isascii() and folder.isdigit() for folder in folders)
    order = sorted(folders, key=_natural) if numbers else folders
    for before, after in pairwise(order):
        if _natural(before) >= _natural(after):
            raise _ambiguous(file, f"is '{after}' before or after '{before}'?")
    paired = dict(zip(order, names, strict=True))
    known = {comparable(folder): folder for folder in folders}
    for folder, name in paired.items():
        other = known.get(comparable(name), folder)
        if other != folder:
            raise _ambiguous(file, f"in its order, '{folder}' would be called '{name}'")
    return tuple(paired[folder] for folder in folders)


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    """Return a key by which people sort: numbers by value, case ignored."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text.casefold())
    # Numbers come before words, shorter numbers before longer ones.
    return tuple(
        (len(part.lstrip("0")), part.lstrip("0")) if part.isdigit() else (MANY_DIGITS, part)
        for part in parts
    )


def _ambiguous(file: Path, why: str) -> DataError:
    return DataError(
        f"{file}: which name belongs to which class is not clear: {why}",
        reason="class-names-ambiguous",
        path=file,
    )


def names_by_class(
    file: Path, names: Mapping[str, str], classes: Sequence[str], what: str
) -> tuple[str, ...]:
    """Look up each class's name in a file's mapping; `what` describes the expected keys.

    Raises:
        DataError: a class has no name.

    """
    missing = [name for name in classes if composed(name) not in names]
    if missing:
        raise DataError(
            f"{file}: no name for {len(missing)} classes: {', '.join(missing[:3])}",
            reason="class-names-missing",
            path=file,
            missing=missing,
            what=what,
        )
    return tuple(names[composed(name)] for name in classes)


def places_among(
    known: tuple[Sequence[str], Sequence[str]], found: tuple[Sequence[str], Sequence[str]]
) -> list[int] | None:
    """Return each found class's index among the known ones, or None if one is unknown.

    Both are (names, folders). Classes are matched by name, or else all by folder, which helps if
    the names came from a file.
    """
    for known_by, found_by in zip(known, found, strict=True):
        for spelled in (str, composed):  # an older registry may hold two spellings of a name
            places = {spelled(name): index for index, name in enumerate(known_by)}
            wanted = [spelled(name) for name in found_by]
            if len(places) == len(known_by) and places.keys() >= set(wanted):
                return [places[name] for name in wanted]
    return None


def comparable(name: str) -> str:
    """Return the form in which a caller's label is compared with class names.

    Case does not matter, an underscore or any run of spaces is one space, and accents may be
    composed or not.
    """
    return " ".join(composed(name).replace("_", " ").split()).casefold()


def alike(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of names that `comparable` takes for one."""
    seen: dict[str, str] = {}
    pairs = [(seen.setdefault(comparable(name), name), name) for name in names]
    return [pair for pair in pairs if pair[0] != pair[1]]


def unknown_among(known: Sequence[str], found: Sequence[str]) -> list[str]:
    """Return the found names that are not known."""
    there = {composed(name) for name in known}
    return [name for name in found if composed(name) not in there]


def name_unknown(unknown: Sequence[str]) -> str:
    """Quote the first of some names and say how many more there are."""
    return f"'{unknown[0]}'" + (f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else "")


def class_list(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the folders and class names of a task without pictures, in the task's order.

    A JSON object gives both, in the folders' alphabetical order, as `read_folder` would find them;
    a list gives names, which then also serve as folders.

    Raises:
        DataError: the file cannot be read, or has fewer than two names or a name twice.

    """
    names = read_class_names(file)
    folders = tuple(sorted(names)) if isinstance(names, dict) else tuple(names)
    resolved = tuple(names[f] for f in folders) if isinstance(names, dict) else folders
    if len(resolved) < 2:
        raise DataError(
            f"{file}: a classifier needs two or more classes, not {len(resolved)}",
            reason="too-few-class-names",
            path=file,
            classes=len(resolved),
        )
    return folders, _distinct(file, resolved)


def read_class_names(file: Path) -> dict[str, str] | list[str]:
    """Read class names: a JSON object (folder to name), a JSON list, or one name per line.

    Raises:
        DataError: the file is missing or has another format.

    """
    try:
        text = decoded(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise DataError(
            f"{file}: cannot read class names ({exc})",
            reason="class-names-unreadable",
            path=file,
        ) from exc
    if file.suffix.lower() != ".json":
        return [composed(line.strip()) for line in text.splitlines() if line.strip()]
    try:
        names = json.loads(text)
    except json.JSONDecodeError as exc:
        raise DataError(f"{file}: not valid JSON ({exc})", reason="not-json", path=file) from exc
    values = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise DataError(
            f"{file}: class names must be a JSON object or list of strings",
            reason="class-names-not-names",
            path=file,
        )
    if isinstance(names, dict):
        found = {composed(folder): composed(name) for folder, name in names.items()}
        if len(found) < len(names):
            raise _ambiguous(file, "two of its folders differ in the spelling of accents alone")
        return found
    return [composed(name) for name in values]


def refuse_odd_text(texts: Sequence[str], what: str, source: Path | None = None) -> None:
    """Refuse names and templates that a registry could store, but not hand on; see `texts`.

    `what` each of them is, and the file or folder they come from, None for the caller's own.

    Raises:
        DataError: a text has control characters, or bytes that are not UTF-8.
        UsageError: the same, if the caller gave it.

    """
    for text in texts:
        odd = complaint(f"the {what}", text)
        if odd is None:
            continue
        if source is None:
            raise UsageError(odd, reason="text-odd", text=visible(text))
        raise DataError(f"{source}: {odd}", reason="text-odd", text=visible(text))


def _distinct(source: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    refuse_odd_text(names, "class name", source)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"{source}: two classes are called '{twice}'",
            reason="class-named-twice",
            path=source,
            name=twice,
        )
    return names
