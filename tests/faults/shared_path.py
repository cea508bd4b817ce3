"""Find where two operations do the same to the disk, so that one sweep of kills covers both.

Steps are compared by their kind: the call, with each path without what differs between runs, or the
first words of a statement. What is done for each blob, row or file is a loop; a loop counts once,
so committing the fourth expert is the same path as committing the second.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from steps import Step

Kinds = tuple[str, ...]
WORDS = 3  # of a statement: what it does, and to which table
HALF_WAY = ("UPDATE HEAD SET", "INSERT INTO PACKS")


class Difference(NamedTuple):
    """What only the operation does, and what only the swept one does."""

    own: Kinds
    lacks: Kinds


def kind(step: Step, folder: Path) -> str:
    """The kind of a step, the same in every run."""
    if step.text:
        return " ".join(step.text.upper().split()[:WORDS])
    paths = (re.sub(f"^{re.escape(str(folder))}/", "", path) for path in step.paths)
    return " ".join([step.what, *map(_lasting, paths)])


def _lasting(path: str) -> str:
    path = re.sub(r"(?<=/tmp/).+", "*", path)
    path = re.sub(r"blobs/[0-9a-f]{2}(?=/|$)", "blobs/XX", path)
    return re.sub(r"[0-9a-f]{64}", "SHA256", path)


def without_repeats(kinds: Sequence[str]) -> list[int]:
    """The places of the kinds that remain when every loop runs once."""
    left = list(range(len(kinds)))
    length = 1
    while length <= len(left) // 2:
        begins = range(len(left) - 2 * length + 1)
        names = [kinds[place] for place in left]
        again = (b for b in begins if names[b : b + length] == names[b + length : b + 2 * length])
        if (begin := next(again, None)) is None:
            length += 1
        else:
            del left[begin + length : begin + 2 * length]
            length = 1
    return left


def difference(kinds: Sequence[str], swept: Sequence[str]) -> Difference:
    """The difference of two operations in which every loop runs once."""
    own: list[str] = []
    lacks: list[str] = []
    names, swept_names = ([steps[n] for n in without_repeats(steps)] for steps in (kinds, swept))
    for begin, end, swept_begin, swept_end in _unequal(names, swept_names):
        own += names[begin:end]
        lacks += swept_names[swept_begin:swept_end]
    return Difference(tuple(own), tuple(lacks))


def places_to_kill(kinds: Sequence[str], swept: Sequence[str]) -> list[int]:
    """Before and after each step that only the operation has, where it lacks some, and half way.

    Half way are the statements that move HEAD and that record a patch. What a kill leaves there
    must be the same as for the swept operation.
    """
    left = without_repeats(kinds)
    names, swept_names = [kinds[n] for n in left], [swept[n] for n in without_repeats(swept)]
    left.append(len(kinds) - 1)
    differing = {
        left[place]
        for begin, end, _, _ in _unequal(names, swept_names)
        for place in range(begin, end + 1)
    }
    return sorted(differing | {list(kinds).index(what) for what in HALF_WAY if what in kinds})


def _unequal(kinds: list[str], swept: list[str]) -> list[tuple[int, int, int, int]]:
    matcher = SequenceMatcher(None, kinds, swept, autojunk=False)
    return [places for what, *places in matcher.get_opcodes() if what != "equal"]
