"""The experts that stay when one is removed, for `forget` and for what replaces an expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from condu_cli.core.codecs.interface import EncodedState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.core.codecs.interface import Codec
    from condu_cli.registry.manifest import TaskEntry

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Remaining:
    """The entries of the experts that stay, in order, with their states.

    `before` holds them as they were beside the removed one, so that what they moved can be
    measured; `after` is the codec's state without it.
    """

    entries: tuple[TaskEntry, ...]
    before: EncodedState
    after: EncodedState


def all_of(entries: Sequence[TaskEntry], state: EncodedState) -> Remaining:
    """Return the experts of a state of which none is removed."""
    return Remaining(tuple(entries), state, state)


def all_but(
    codec: Codec, entries: Sequence[TaskEntry], state: EncodedState, index: int
) -> Remaining:
    """Remove one expert and unify the others again.

    Raises InvalidStateError for a corrupt state.
    """
    after = codec.remove(state, index)
    before = EncodedState(state.shared, _without(state.parts, index))
    return Remaining(tuple(_without(entries, index)), before, after)


def _without(items: Sequence[T], index: int) -> list[T]:
    return [item for place, item in enumerate(items) if place != index]
