"""Find a base model's parameters in a checkpoint from elsewhere, whatever they are called there."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

from condu_cli.backbone.weights.hugging_face import open_clip_names
from condu_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder

ANCHORS = 3
"""How many of the model's names are looked for to find a prefix; a checkpoint may lack some."""
NO_WEIGHTS = ("num_batches_tracked", "position_ids", "attn_mask")
"""Buffers that do not matter in evaluation mode, or follow from the model's shape."""
SIZES = ("input_resolution", "context_length", "vocab_size")
"""What OpenAI's checkpoints keep as tensors; the shapes of the others say the same."""
SHARED_BY_CLASSES = ("logit_scale", "logit_bias")
"""What does not change which class wins; a model that has the scale keeps its own."""


class KnownNames(NamedTuple):
    """A checkpoint's tensors under the base model's names, and the names of the others.

    `left_out` belong to no part of the model, like a classifier that was trained beside it;
    `unexpected` would be in one of its parts.
    """

    weights: Mapping[str, Tensor]
    left_out: tuple[str, ...]
    unexpected: tuple[str, ...]


def with_known_names(base: DualEncoder, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Rename tensors: from Hugging Face's names, and without a prefix that a wrapper added.

    Raises:
        UsageError: two prefixes would do, so there are two models.

    """
    inside, beside = _divided(base, weights)
    return {**beside, **inside}


def known_names(base: DualEncoder, weights: Mapping[str, Tensor]) -> KnownNames:
    """Rename tensors, and sort out what the model does not have.

    Raises:
        UsageError: two prefixes would do, so there are two models.

    """
    model = base.library_model
    known = {n for n, _ in (*model.named_parameters(), *model.named_buffers())}
    parts = {name.partition(".")[0] for name in known}
    inside, beside = _divided(base, weights)
    strange = [name for name in inside if name not in known and not _is_harmless(name)]
    unexpected = tuple(name for name in strange if name.partition(".")[0] in parts)
    left_out = [name for name in strange if name.partition(".")[0] not in parts]
    left_out += [name for name in beside if not _is_harmless(name)]
    return KnownNames(inside, tuple(left_out), unexpected)


def _divided(
    base: DualEncoder, weights: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return the tensors below the model's prefix under its names, and those beside it."""
    wanted = list(base.tunable_parameters())
    if not any(name in weights for name in wanted):
        weights = open_clip_names(weights)
    prefix = _prefix(wanted, weights)
    if not prefix:
        return weights, {}
    inside = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
    return inside, {name: t for name, t in weights.items() if not name.startswith(prefix)}


def guess(missing: str, names: Collection[str]) -> str:
    """Describe what a file holds in the place of a parameter that it lacks."""
    words = f"it holds {some(names)}"
    close = difflib.get_close_matches(missing, names, n=1, cutoff=0.5)
    return f"{words}; closest to {missing} is {close[0]}" if close else words


def some(names: Iterable[str], limit: int = 3) -> str:
    """List the first few names for a message."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (", …" if len(listed) > limit else "")


def _prefix(wanted: list[str], names: Collection[str]) -> str:
    """Return the prefix with which most of the wanted names are there; none wins a draw."""
    step = max(1, len(wanted) // ANCHORS)
    anchors = wanted[::step][:ANCHORS]
    candidates = {name[: -len(a)] for a in anchors for name in names if name.endswith(f".{a}")}
    found = {p: sum(f"{p}{name}" in names for name in wanted) for p in ("", *sorted(candidates))}
    best = max(found, key=found.__getitem__)
    whole = [prefix for prefix, count in found.items() if count == len(wanted)]
    if len(whole) > 1 and best:
        raise UsageError(
            f"the file holds several models: {' and '.join(whole)}",
            reason="several-models",
            prefixes=whole,
        )
    return best


def _is_harmless(name: str) -> bool:
    return name in (*SIZES, *SHARED_BY_CLASSES) or name.endswith(NO_WEIGHTS)
