"""A classifier in closed form on fixed features, and how good it is on pictures it has not seen.

Gaussian discriminant analysis: classes with a mean each and one covariance W / (N - C), W the
scatter within classes, shrunk towards a multiple of the identity. With N pictures of d numbers

    A = [(N - 1) W / (N - C) + tr(W) / (N - C) I] / (N - 1 + d)
    score of class c = m_c' A^-1 x - m_c' A^-1 m_c / 2 + log(n_c / N)

Source: "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation" (ICLR 2024), whose
shrinkage is the empirical Bayes ridge of Kubokawa and Srivastava (2008). There is nothing to tune,
and leaving out one picture changes W by one rank, so cross-validation costs little more than a fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from condu_cli.core.metrics import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from condu_cli.core.arrays.layout import Float32, Float64

TEMPERATURES = tuple(2.0 ** (power / 2) for power in range(-16, 9))
BLOCK = 4096
"""Pictures left out at a time; bounds the working memory, not the result."""


@dataclass(frozen=True, eq=False)
class Head:
    """A linear classifier on unit features of width P: scores = features @ weights.T + bias.

    `weights`: float32 (C, P); `bias`: float32 (C,).
    """

    weights: Float32
    bias: Float32

    def scores(self, features: NDArray[np.floating]) -> Float32:
        """Return the scores (N, C), float32, of unit features (N, P)."""
        found: Float32 = features.astype(np.float32, copy=False) @ self.weights.T + self.bias
        return found

    def to_arrays(self) -> dict[str, Float32]:
        """Return both arrays by name, as a blob stores them; see `stored_heads`."""
        return {"weights": self.weights, "bias": self.bias}


def fit_head(features: NDArray[np.floating], labels: NDArray[np.integer], classes: int) -> Head:
    """Fit a head to unit features (N, P); see `Moments.of` and `Moments.head`."""
    return Moments.of(features, labels, classes).head()


def calibrated(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the factor for scores (N, C) whose probabilities have the smallest log loss.

    The scores are those of pictures that the head has not seen, finite for the right class.
    """

    def loss(factor: float) -> float:
        chance = softmax(factor * scores)[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(chance, np.finfo(float).tiny)).mean())

    return float(min(TEMPERATURES, key=loss))


@dataclass(frozen=True, eq=False)
class Moments:
    """What a fit needs to know of its pictures, float64.

    `counts` (C,), class `means` (C, P), and `scatter` (P, P), the sum over pictures of
    (x - m_c)(x - m_c)'.
    """

    counts: Float64
    means: Float64
    scatter: Float64

    @classmethod
    def of(
        cls, features: NDArray[np.floating], labels: NDArray[np.integer], classes: int
    ) -> Moments:
        """Sum up unit features (N, P) with labels (N,) in 0..classes-1.

        Raises:
            ValueError: a class has no pictures, or shapes do not fit.

        """
        if features.ndim != 2 or labels.shape != (len(features),):
            raise ValueError(f"features are {features.shape} and labels {labels.shape}")
        counts = np.bincount(labels, minlength=classes).astype(np.float64)
        if len(counts) != classes or not counts.all():
            raise ValueError(f"every one of {classes} classes needs a picture")
        wide = features.astype(np.float64)
        sums = np.zeros((classes, wide.shape[1]))
        np.add.at(sums, labels, wide)
        means = sums / counts[:, None]
        return cls(counts, means, wide.T @ wide - sums.T @ means)

    @property
    def total(self) -> float:
        """The number of pictures, N."""
        return float(self.counts.sum())

    def head(self) -> Head:
        """Return the head of these pictures.

        With one picture of every class there is no scatter within classes; then the nearest class
        mean decides.
        """
        weights = self.means @ self.precision()
        bias = -0.5 * (weights * self.means).sum(axis=1) + np.log(self.counts / self.total)
        return Head(weights.astype(np.float32), bias.astype(np.float32))

    def left_out(self, features: NDArray[np.floating], labels: NDArray[np.integer]) -> Float64:
        """Return the scores (N, C) of these same pictures, each by the head of all the others.

        They equal those of N separate fits. The only picture of a class gets -inf for that class:
        the others show nothing of it.

        Raises:
            ValueError: there is but one picture.

        """
        if len(features) < 2:
            raise ValueError("leaving one picture out takes at least two")
        eigenvalues, basis = np.linalg.eigh(self.scatter)
        turned = _Turned(self, np.maximum(eigenvalues, 0.0), self.means @ basis)
        parts = (slice(start, start + BLOCK) for start in range(0, len(features), BLOCK))
        return np.concatenate(
            [turned.left_out(features[p].astype(np.float64) @ basis, labels[p]) for p in parts]
        )

    def precision(self) -> Float64:
        """Return the inverse of the shrunk covariance, (P, P)."""
        width, freedom = len(self.scatter), self.total - len(self.counts)
        trace = np.trace(self.scatter)
        if freedom < 1 or trace <= 0:
            return np.eye(width)
        ridge = trace / freedom * np.eye(width)
        shrunk = (self.total - 1) / freedom * self.scatter + ridge
        inverse: Float64 = np.linalg.inv(shrunk / (self.total - 1 + width))
        return inverse


@dataclass(frozen=True, eq=False)
class _Turned:
    """Moments in the basis where the scatter is diagonal: `eigenvalues` (P,), `means` (C, P).

    Without x, with a = x - m_c and k = n_c / (n_c - 1), the scatter is W - k a a', and the mean of
    x's class is m_c - a / (n_c - 1). Sherman and Morrison give the inverse of W - k a a' + r I:
    G + f (G a)(G a)' with G = diag(1 / (eigenvalue + r)) and f = k / (1 - k a' G a).
    """

    moments: Moments
    eigenvalues: Float64
    means: Float64

    def left_out(self, x: Float64, labels: NDArray[np.integer]) -> Float64:
        """Return the scores (B, C) of pictures x (B, P) by the heads without each of them."""
        n, means = self.moments.counts, self.means
        others = self.moments.total - 1
        alone = n[labels] < 2
        step = 1 / np.where(alone, np.inf, n[labels] - 1)  # (B,): how far the class mean moves
        k, a = n[labels] * step, x - means[labels]
        inverse, f, scale = self._inverse(others, alone, k, a)
        ga = inverse * a  # (B, P)
        xa, aa = (ga * x).sum(axis=1), (ga * a).sum(axis=1)
        f = f / (1 - f * aa)
        ma = ga @ means.T  # (B, C)
        linear = (inverse * x) @ means.T + (f * xa)[:, None] * ma
        square = inverse @ (means * means).T + f[:, None] * ma * ma
        own = (np.arange(len(x)), labels)
        toward = ma[own] * (1 + f * aa)
        linear[own] -= step * xa * (1 + f * aa)
        square[own] += step * (step * aa * (1 + f * aa) - 2 * toward)
        prior = np.tile(np.log(n / others), (len(x), 1))
        with np.errstate(divide="ignore"):
            prior[own] = np.log((n[labels] - 1) / others)
        scores: Float64 = (linear - 0.5 * square) * scale[:, None] + prior
        return scores

    def _inverse(
        self, others: float, alone: NDArray[np.bool_], k: Float64, a: Float64
    ) -> tuple[Float64, Float64, Float64]:
        """Return diag(G) (B, P), k (B,), and the factor (B,) that makes A^-1 of G's update."""
        width = len(self.eigenvalues)
        freedom = others - len(self.moments.counts) + alone
        trace = self.eigenvalues.sum() - k * (a * a).sum(axis=1)
        known = (freedom >= 1) & (trace > 0)
        ridge = np.where(known, trace / max(others - 1, 1), 1.0)
        inverse = 1 / (self.eigenvalues * known[:, None] + ridge[:, None])
        scale = np.where(known, freedom * (others - 1 + width) / max(others - 1, 1), 1.0)
        return inverse, k * known, scale
