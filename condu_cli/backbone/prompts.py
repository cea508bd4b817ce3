"""Encode prompts at the cost of their own lengths, not of the full context.

A text tower's time grows with the number of token positions. A prompt of nine tokens needs nine: in
a causal tower, later positions change nothing, and in others they are masked out. So prompts are
encoded in a few groups of similar length, each cut to its longest. Except for rounding, the
features are those of the full context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

GROUP_COST = 128
"""The cost of another call of the tower, in token positions: a group must save more than this."""


class TextEncoder(Protocol):
    """The methods needed of a model; see `dual_encoder.DualEncoder`."""

    def token_lengths(self, tokens: Mapping[str, Tensor]) -> Tensor | None:
        """Return how many token positions each text needs."""

    def encode_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Encode tokens to unit text features."""


def encode_prompts(model: TextEncoder, tokens: Mapping[str, Tensor]) -> Tensor:
    """Encode the tokens of N texts, from `tokenize`, to unit text features (N, E)."""
    lengths = model.token_lengths(tokens)
    if lengths is None:
        return model.encode_tokens(tokens)
    groups = length_groups(lengths.tolist())
    parts = [model.encode_tokens(_cut(tokens, rows, length)) for rows, length in groups]
    if len(parts) == 1:
        return parts[0]
    order = torch.tensor([row for rows, _ in groups for row in rows], device=parts[0].device)
    return torch.cat(parts)[torch.argsort(order)]


def _cut(tokens: Mapping[str, Tensor], rows: Sequence[int], length: int) -> dict[str, Tensor]:
    """Return some rows of the tokens, cut to `length` positions."""
    first = next(iter(tokens.values()))
    if len(rows) == len(first):
        return {name: tensor[:, :length] for name, tensor in tokens.items()}
    index = torch.tensor(rows, device=first.device)
    return {name: tensor[index, :length] for name, tensor in tokens.items()}


def length_groups(lengths: Sequence[int]) -> list[tuple[list[int], int]]:
    """Return the cheapest partition into groups of similar length: rows and their longest length.

    The cost of a group is its rows times its longest length, plus `GROUP_COST`. A single group
    keeps the order of the rows.
    """
    distinct = sorted(set(lengths))
    counts = [lengths.count(length) for length in distinct]
    # best[i]: the lowest cost of the i shortest lengths, and where their last group begins.
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(distinct) + 1):
        options = [
            (best[begin][0] + sum(counts[begin:end]) * distinct[end - 1] + GROUP_COST, begin)
            for begin in range(end)
        ]
        best.append(min(options))
    groups: list[tuple[list[int], int]] = []
    end = len(distinct)
    while end:
        begin = best[end][1]
        members = set(distinct[begin:end])
        rows = [row for row, length in enumerate(lengths) if length in members]
        groups.append((rows, distinct[end - 1]))
        end = begin
    return groups
