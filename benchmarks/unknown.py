"""How often `predict --threshold X` calls pictures unknown, rightly or not; a table for docs/.

    python benchmarks/unknown.py --data DIR [--sets NAME …] [--shares X …] [--shots N]

DIR holds one folder of pictures per set. Each set in turn is left out: all others are learned (only
their prototypes, as nothing else is needed), and test pictures are judged. False alarms are test
pictures of learned sets that are called unknown, averaged over those sets; misses are test pictures
of the set left out that are not. Nothing is chosen on these pictures.

Baseline in the same run: the base model's best probability over all learned classes, with the same
allowed share, calibrated on the training pictures of each learned set.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from set_features import set_features

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.classifiers import text_features
from condu_cli.core.metrics import softmax
from condu_cli.core.routing.membership import Membership
from condu_cli.core.routing.prototypes import PrototypeBuilder
from condu_cli.core.routing.routers import Query, rank, router_for
from condu_cli.data.draws import few_shot
from condu_cli.data.sources.task_data import templates_for

if TYPE_CHECKING:
    from set_features import SetFeatures

    from condu_cli.core.routing.prototypes import Prototypes

SETS = (
    *("eurosat", "oxford_pets", "dtd", "caltech101"),
    *("stanford_cars", "scene15", "mnist", "cifar10"),
)


@dataclass(frozen=True)
class Learned:
    """A set with its prototypes; `taught`: the rows of the training pictures that made them."""

    features: SetFeatures
    prototypes: Prototypes
    taught: np.ndarray


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--shots", type=int, default=0, help="0: all pictures")
    options = parser.parse_args()
    base = load_base(options.base)
    scale = float(base.logit_scale_value)
    sets = []
    for name in options.sets:
        found = set_features(base, options.data / name)
        text = text_features(base, found.data.class_names, templates_for(name)).cpu().numpy()
        sets.append(learn(found, text, options.shots))
    print(
        f"{date.today()}, {platform.machine()}, base {options.base}, "
        f"{options.shots or 'all'} pictures of each class; false alarms / misses in %"
    )
    heads = [f"{share:g}: {by}" for share in options.shares for by in ("condu", "probability")]
    print("| set left out | " + " | ".join(heads) + " |")
    print("|---|" + "---|" * len(heads))
    rows = []
    for left_out in sets:
        learned = [one for one in sets if one is not left_out]
        ours, baseline = by_similarity(learned, left_out), by_probability(learned, left_out, scale)
        cells = [rates(by, share) for share in options.shares for by in (ours, baseline)]
        rows.append(cells)
        print(line(left_out.features.name, cells), flush=True)
    print(line("mean", [tuple(np.mean(column, axis=0)) for column in zip(*rows, strict=True)]))


def parser_of(doc: str) -> argparse.ArgumentParser:
    """Return the options that all programs about unknown pictures have."""
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--base", default="mini")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    return parser


def line(name: str, cells: list[tuple[float, float]]) -> str:
    texts = [f"{100 * alarms:.1f} / {100 * misses:.1f}" for alarms, misses in cells]
    return f"| {name} | {' | '.join(texts)} |"


def learn(found: SetFeatures, text: np.ndarray, shots: int) -> Learned:
    """Build prototypes as `learn` does, from all training pictures or the same few."""
    samples = found.data.train
    chosen = set(few_shot(found.data, shots, seed=0).train) if shots else set(samples)
    taught = np.array([row for row, sample in enumerate(samples) if sample in chosen])
    builder = PrototypeBuilder(text, found.train.pooled.shape[1])
    train = found.train
    builder.add(train.image[taught], train.pooled[taught], train.labels[taught])
    return Learned(found, builder.build(), taught)


def rates(shares: tuple[list[np.ndarray], np.ndarray], allowed: float) -> tuple[float, float]:
    """Return false alarms (mean over the learned sets) and misses, both 0..1."""
    own, others = shares
    alarms = float(np.mean([np.mean(one <= allowed) for one in own]))
    return alarms, float(np.mean(others > allowed))


def by_similarity(learned: list[Learned], left_out: Learned) -> tuple[list[np.ndarray], np.ndarray]:
    """Return what `predict` compares with the threshold, per learned set and for the other."""
    tasks = {one.features.name: one.prototypes for one in learned}
    names, members = list(tasks), Membership(tasks)
    router = router_for("pooled", list(tasks.values()))

    def shares(one: Learned) -> np.ndarray:
        test = one.features.test
        nearest = rank(router.scores(Query(test.image, test.pooled)), 1)[:, 0]
        return members.shares([names[i] for i in nearest], test.pooled)

    return [shares(one) for one in learned], shares(left_out)


def by_probability(
    learned: list[Learned], left_out: Learned, scale: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """Do the same with the base model's best probability; its class names the nearest task."""
    texts = np.concatenate([one.prototypes.text for one in learned])
    owners = np.concatenate([[i] * len(one.prototypes.text) for i, one in enumerate(learned)])

    def best(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities = softmax(scale * image @ texts.T)
        return owners[probabilities.argmax(axis=1)], probabilities.max(axis=1)

    records = [np.sort(best(one.features.train.image[one.taught])[1]) for one in learned]

    def shares(one: Learned) -> np.ndarray:
        tasks, values = best(one.features.test.image)
        below = [
            (1 + np.searchsorted(records[task], value, side="right")) / (1 + len(records[task]))
            for task, value in zip(tasks, values, strict=True)
        ]
        return np.array(below)

    return [shares(one) for one in learned], shares(left_out)


if __name__ == "__main__":
    main()
