"""How people spell the names of splits, for folders, lists and saved data sets alike."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from condu_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TRAIN, TEST, VALIDATION = "train", "test", "validation"
_KINDS = {
    TRAIN: ("train", "training", "trn"),
    TEST: ("test", "testing", "tst"),
    VALIDATION: ("val", "valid", "validation", "validate", "dev"),
}
_ENDINGS = ("", "set", "split", "data", "images", "imgs", "pictures", "folder")
_MEANT = {
    stem + ending: kind for kind, stems in _KINDS.items() for stem in stems for ending in _ENDINGS
}
EXAMPLES = ("train", "training", "test", "testing", "val", "valid", "validation")


def split_of(name: str) -> str | None:
    """Return which split a name means: train, test or validation; None if it means none.

    Case, spaces, dashes and underscores do not matter: `Training`, `test_set`, `VAL`.
    """
    return _MEANT.get(re.sub(r"[\s._-]", "", name.casefold()))


def by_split(names: Iterable[str], source: Path) -> dict[str, str]:
    """Return the name of each split among some names; others are left out.

    Raises:
        DataError: two names mean the same split.

    """
    found: dict[str, str] = {}
    for name in sorted(names):
        kind = split_of(name)
        if kind is None:
            continue
        if kind in found:
            raise DataError(
                f"{source}: '{found[kind]}' and '{name}' both read as the {kind} split",
                reason="split-twice",
                path=source,
                names=[found[kind], name],
            )
        found[kind] = name
    return found


def split_without_train(source: Path, name: str) -> DataError:
    """Build the error for a source that has a split, but none to train on."""
    return DataError(
        f"{source}: has the split '{name}', but none to train on",
        reason="split-without-train",
        path=source,
        name=name,
    )
