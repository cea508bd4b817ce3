"""Fold a head into the map from features to an embedding that is compared with class texts.

A head scores class c by s_c = w_c' x + b_c. An embedding e is compared with the class texts t_c by
the cosines t_c' e / |e|. Only differences between classes matter, so with texts and scores centred
over the classes, e = T^+ s (T^+ the pseudo-inverse of the centred texts) gives differences in
proportion to the head's. It exists without loss if no text is a combination of the others around
their mean: C - 1 <= E, and no two equal texts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from condu_cli.core.heads import calibrated
from condu_cli.core.metrics import is_better, softmax
from condu_cli.core.routing.prototypes import unit_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from condu_cli.core.arrays.layout import Float64
    from condu_cli.core.heads import Head

SMALLEST = 1e-3
"""Directions in which the texts differ less than this share of the largest count as none: there, a
map would have to be large, and the slightest change of the texts would be too."""
WEIGHTS = tuple(2.0**power for power in range(-2, 7))
"""How much longer the head's part of the embedding may be than the base model's."""


class Folding(NamedTuple):
    """What to add to an embedding: weights @ x + offset for a unit feature x.

    `weights`: float64 (E, P); `offset`: float64 (E,).
    """

    weights: Float64
    offset: Float64


@dataclass(frozen=True, eq=False)
class Mixture:
    """How long the head's part is beside the base model's, and what that reaches.

    `factor` multiplies what `unscaled` returns. `right` (N,), `loss` (the mean negative logarithm
    of the right class's probability) and `temperature` (the factor for the logits whose
    probabilities have the smallest loss) are of pictures that the head has not seen.
    """

    factor: float
    right: NDArray[np.bool_]
    loss: float
    temperature: float = 1.0

    @property
    def accuracy(self) -> float:
        """The share of pictures that it gets right, 0..1."""
        return float(self.right.mean())


def unscaled(texts: NDArray[np.floating], scores: NDArray[np.floating]) -> Float64:
    """Return embeddings (N, E) whose products with texts (C, E) differ as scores (N, C) do."""
    found: Float64 = _centred(scores.astype(np.float64), axis=1) @ _inverse(texts).T
    return found


def fold(texts: NDArray[np.floating], head: Head, factor: float) -> Folding:
    """Return the map for a head over classes with these unit texts (C, E)."""
    inverse = factor * _inverse(texts)
    return Folding(inverse @ head.weights.astype(np.float64), inverse @ head.bias)


def best_mixture(
    texts: NDArray[np.floating],
    base: NDArray[np.floating],
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    logit_scale: float,
) -> Mixture:
    """Choose how long the head's part of the embedding is, on scores that it has not seen.

    `base`: the base model's embeddings (N, E) before normalisation; `scores`: the head's (N, C) by
    `leave_one_out`, of pictures that have a score for their own class. The head decides nearly
    alone, unless more of the base model is better beyond chance; then the most accurate wins, and
    of equals the one with the smallest loss.
    """
    added = unscaled(texts, _finite(scores))
    found = [
        _measured(weight * _even(base, added), base, added, texts, labels, logit_scale)
        for weight in WEIGHTS
    ]
    best = max(found, key=lambda one: (one.accuracy, -one.loss))
    chosen = best if is_better(best.right, found[-1].right) else found[-1]
    logits = _logits(chosen.factor, base, added, texts, logit_scale)
    return replace(chosen, temperature=calibrated(logits, labels))


def even_factor(
    texts: NDArray[np.floating], base: NDArray[np.floating], scores: NDArray[np.floating]
) -> float:
    """Return the factor at which the head's part is as long as the base model's."""
    return _even(base, unscaled(texts, scores))


def _measured(
    factor: float,
    base: NDArray[np.floating],
    added: Float64,
    texts: NDArray[np.floating],
    labels: NDArray[np.integer],
    logit_scale: float,
) -> Mixture:
    logits = _logits(factor, base, added, texts, logit_scale)
    right = softmax(logits)[np.arange(len(labels)), labels]
    return Mixture(
        float(factor),
        logits.argmax(axis=1) == labels,
        float(-np.log(np.maximum(right, np.finfo(float).tiny)).mean()),
    )


def _logits(
    factor: float,
    base: NDArray[np.floating],
    added: Float64,
    texts: NDArray[np.floating],
    logit_scale: float,
) -> Float64:
    unit = unit_rows(base + factor * added)
    return np.asarray(logit_scale * unit @ texts.T, dtype=np.float64)


def _inverse(texts: NDArray[np.floating]) -> Float64:
    """Return the pseudo-inverse (E, C) of the centred texts."""
    centred = _centred(texts.astype(np.float64), axis=0)
    return np.asarray(np.linalg.pinv(centred, rcond=SMALLEST), dtype=np.float64)


def _centred(values: Float64, axis: int) -> Float64:
    return np.asarray(values - values.mean(axis=axis, keepdims=True), dtype=np.float64)


def _finite(scores: NDArray[np.floating]) -> Float64:
    """Replace -inf, of a class that was left out, by the picture's lowest score."""
    known = np.where(np.isfinite(scores), scores, np.inf).min(axis=1, keepdims=True)
    found: Float64 = np.where(np.isfinite(scores), scores, known)
    return found


def _even(base: NDArray[np.floating], added: Float64) -> float:
    length = _length(added)
    return _length(base) / length if length else 1.0


def _length(embeddings: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(embeddings, axis=1).mean())
