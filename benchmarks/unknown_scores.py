"""Which score tells pictures of no learned task best? Judged on training pictures only.

    python benchmarks/unknown_scores.py --data DIR [--sets NAME …] [--shares X …] [--seeds N]

DIR holds one folder of pictures per set. The training pictures of every set are drawn into three
parts: half are learned, a quarter says how high the task's own scores are, a quarter is judged.
Each set in turn is left out, as in unknown.py, which measures on test pictures what was chosen
here. A picture goes to the task that the router of `predict` says. Scores, of its pooled feature x:

    cosine       the best cosine of x with a class mean of the task; what `predict --threshold` uses
    embedding    the same in the space where pictures are compared with texts
    contrast     the best cosine less the best one with any other task's class
    gaussian     the smallest Mahalanobis distance to a class mean, one covariance for the task
    relative     the same less the distance to the mean of all tasks, under their own covariance
                 (Ren et al. 2021, "A Simple Fix to Mahalanobis Distance")
"""

from __future__ import annotations

import platform
from collections import defaultdict
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from set_features import set_features
from unknown import parser_of

from condu_cli.backbone.base_models import load_base
from condu_cli.core.heads import Moments
from condu_cli.core.routing.prototypes import unit_rows

if TYPE_CHECKING:
    from set_features import SetFeatures

SCORES = ("cosine", "embedding", "contrast", "gaussian", "relative")


class Part(NamedTuple):
    """Unit pooled features (N, P), unit embeddings (N, E) and labels (N,)."""

    pooled: np.ndarray
    image: np.ndarray
    labels: np.ndarray


class Task(NamedTuple):
    """One set: what is learned, what calibrates and what is judged."""

    name: str
    learned: Part
    calibrating: Part
    judged: Part


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    base = load_base(options.base)
    sets = [set_features(base, options.data / name) for name in options.sets]
    print(
        f"{date.today()}, {platform.machine()}, base {options.base}, {options.seeds} draws, "
        "training pictures only; false alarms / misses in %, means over sets left out"
    )
    found = defaultdict(list)
    for seed in range(options.seeds):
        tasks = [drawn(one, seed) for one in sets]
        for left_out in tasks:
            measure(found, tasks, left_out, options.shares)
    print("| score | " + " | ".join(f"{share:g}" for share in options.shares) + " |")
    print("|---|" + "---|" * len(options.shares))
    for score in SCORES:
        cells = [100 * np.mean(found[score, share], axis=0) for share in options.shares]
        print(f"| {score} | " + " | ".join(f"{a:.1f} / {m:.1f}" for a, m in cells) + " |")


def drawn(one: SetFeatures, seed: int) -> Task:
    """Draw the three parts; every class is learned."""
    train = one.train
    order = np.random.default_rng(seed).permutation(len(train.labels))
    order = order[np.argsort(train.labels[order], kind="stable")]  # by class, drawn within each
    places = np.arange(len(order)) % 4

    def part(*which: int) -> Part:
        rows = order[np.isin(places, which)]
        return Part(unit_rows(train.pooled[rows]), train.image[rows], train.labels[rows])

    return Task(one.name, part(0, 2), part(1), part(3))


def measure(
    found: dict[tuple[str, float], list[tuple[float, float]]],
    tasks: list[Task],
    left_out: Task,
    shares: list[float],
) -> None:
    """Add the false alarms and misses of every score with one set left out."""
    learned = [task for task in tasks if task is not left_out]
    scorer = Scorer(learned)
    own = [scorer.scores(task.calibrating) for task in learned]
    judged = [scorer.scores(task.judged) for task in learned]
    others = scorer.scores(left_out.judged)
    for score in SCORES:
        for share in shares:
            # As `predict` does it: the threshold of the task that the router says.
            limits = np.array(
                [np.quantile(o[score][:, i], share, method="lower") for i, o in enumerate(own)]
            )
            alarms = [unknown(one, score, limits).mean() for one in judged]
            misses = 1 - unknown(others, score, limits).mean()
            found[score, share].append((float(np.mean(alarms)), float(misses)))


def unknown(scores: dict[str, np.ndarray], score: str, limits: np.ndarray) -> np.ndarray:
    """Return for each picture whether it is below the limit of its nearest task."""
    nearest = scores["cosine"].argmax(axis=1)
    values = np.take_along_axis(scores[score], nearest[:, None], axis=1)[:, 0]
    return values < limits[nearest]


class Scorer:
    """All scores of pictures for some learned tasks."""

    def __init__(self, learned: list[Task]) -> None:
        pooled = [moments(t.learned.pooled, t.learned.labels) for t in learned]
        self._pooled = [one.means for one in pooled]
        self._image = [moments(t.learned.image, t.learned.labels).means for t in learned]
        self._precisions = [one.precision() for one in pooled]
        every = np.concatenate([t.learned.pooled for t in learned])
        whole = moments(every, np.zeros(len(every), dtype=int))
        self._mean, self._whole = whole.means, whole.precision()

    def scores(self, part: Part) -> dict[str, np.ndarray]:
        """Return (N, tasks) for each score; higher is nearer."""
        pooled = [(part.pooled @ unit_rows(m).T).max(axis=1) for m in self._pooled]
        cosine = np.stack(pooled, axis=1)
        embedding = [(part.image @ unit_rows(m).T).max(axis=1) for m in self._image]
        gaussian = np.stack(
            [
                -distances(part.pooled, means, inverse).min(axis=1)
                for means, inverse in zip(self._pooled, self._precisions, strict=True)
            ],
            axis=1,
        )
        background = distances(part.pooled, self._mean, self._whole)
        return {
            "cosine": cosine,
            "embedding": np.stack(embedding, axis=1),
            "contrast": cosine - best_of_others(cosine),
            "gaussian": gaussian,
            "relative": gaussian + background,
        }


def best_of_others(scores: np.ndarray) -> np.ndarray:
    """Return for each task the best score (N, tasks) of any other."""
    ordered = np.sort(scores, axis=1)
    is_best = scores == ordered[:, -1:]
    return np.where(is_best, ordered[:, -2:-1], ordered[:, -1:])


def moments(pooled: np.ndarray, labels: np.ndarray) -> Moments:
    return Moments.of(pooled, labels, int(labels.max()) + 1)


def distances(pooled: np.ndarray, means: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Return squared Mahalanobis distances (N, C)."""
    turned = pooled @ inverse
    square = np.einsum("np,np->n", turned, pooled)
    means_turned = means @ inverse
    of_means = np.einsum("cp,cp->c", means_turned, means)
    result: np.ndarray = square[:, None] - 2 * turned @ means.T + of_means
    return result


if __name__ == "__main__":
    main()
