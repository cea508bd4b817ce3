"""Text features of class names, encoded once per model and cached."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch

from condu_cli.backbone.classifiers import text_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.workflows.answering.answers import Candidate

LIMIT_BYTES = 1 << 28
"""The cache's limit; in a vote, every expert encodes all candidates."""


class ClassFeatures:
    """A cache of candidates' text features, shared by successive windows of pictures.

    `owner` names the model: a task for its expert, None for the base model. The least recently used
    features are evicted first.
    """

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self._limit = limit
        self._kept: dict[tuple[str | None, tuple[Candidate, ...]], Tensor] = {}

    def of(
        self, owner: str | None, model: DualEncoder, candidates: tuple[Candidate, ...]
    ) -> Tensor:
        """Return one unit text feature per candidate (L, E), float32."""
        key = (owner, candidates)
        features = self._kept.pop(key, None)
        if features is None:
            features = encode_candidates(model, candidates)
        self._kept[key] = features
        while len(self._kept) > 1 and sum(f.nbytes for f in self._kept.values()) > self._limit:
            del self._kept[next(iter(self._kept))]
        return features


def encode_candidates(model: DualEncoder, candidates: Sequence[Candidate]) -> Tensor:
    """Return one unit text feature per candidate (L, E), each encoded with its own templates."""
    by_templates: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, candidate in enumerate(candidates):
        by_templates[candidate.templates].append(index)
    rows: dict[int, Tensor] = {}
    for templates, indices in by_templates.items():
        features = text_features(model, [candidates[i].label for i in indices], templates)
        rows.update(zip(indices, features, strict=True))
    return torch.stack([rows[index] for index in range(len(candidates))])
