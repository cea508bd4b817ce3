"""Draw from the training pictures: few shots, a limit, and held-out pictures.

All draws are seeded and made per class. They depend only on the names of that class's pictures: not
on the order in which a disk lists them, and not on other classes.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from condu_cli.data.pictures.picture_files import picture_name
from condu_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condu_cli.data.labelled import LabelledPictures, Sample


def few_shot(data: LabelledPictures, shots: int, seed: int) -> LabelledPictures:
    """Keep at most `shots` training pictures per class, drawn by seed; keep the test split.

    The others become `spare`, in case a drawn picture turns out to be unreadable.

    Raises:
        DataError: fewer than one shot.

    """
    if shots < 1:
        raise DataError(
            f"shots must be at least 1, not {shots}",
            reason="too-few-shots",
            parameter="shots",
            value=shots,
        )
    return _keep(data, dict.fromkeys(range(len(data.folders)), shots), seed)


def limit_pictures(data: LabelledPictures, limit: int, seed: int) -> LabelledPictures:
    """Keep at most `limit` training pictures overall, as many of every class as possible.

    A class with fewer than its share gives all it has, and the others share the rest. The remaining
    pictures become `spare`, as with `few_shot`.

    Raises:
        UsageError: the limit is smaller than the number of classes.

    """
    sizes = {label: len(samples) for label, samples in _by_label(data.train).items()}
    if limit < len(sizes):
        raise UsageError(
            f"limit must be at least the {len(sizes)} classes, not {limit}",
            reason="limit-below-classes",
            parameter="limit",
            value=limit,
            classes=len(sizes),
        )
    return _keep(data, _level(sizes, limit, seed), seed)


def hold_out(
    data: LabelledPictures, share: float, seed: int
) -> tuple[LabelledPictures, tuple[Sample, ...]]:
    """Hold out validation pictures: (remaining training pictures, held-out pictures).

    `share`: below 1, the share of all training pictures, at least one; otherwise their number.
    Every class gives in proportion to its size and keeps at least one picture; a class of one
    picture gives none.

    Raises:
        UsageError: a negative share.

    """
    if share < 0:
        raise UsageError(
            f"{share:g} pictures cannot be held out", reason="share-below-0", value=share
        )
    by_label = _by_label(data.train)
    sizes = {label: len(samples) for label, samples in by_label.items()}
    total = max(round(share * len(data.train)), 1) if 0 < share < 1 else int(share)
    quotas = _proportional(sizes, total, seed)
    held = {
        sample
        for label, samples in by_label.items()
        for sample in _shuffled(samples, data.folders[label], f"{seed}:held out")[: quotas[label]]
    }
    remaining = tuple(sample for sample in data.train if sample not in held)
    return replace(data, train=remaining), tuple(s for s in data.train if s in held)


def _keep(data: LabelledPictures, quotas: Mapping[int, int], seed: int) -> LabelledPictures:
    kept: list[Sample] = []
    spare: dict[int, tuple[Sample, ...]] = {}
    for label, samples in sorted(_by_label(data.train).items()):
        drawn = _shuffled(samples, data.folders[label], f"{seed}")
        kept += sorted(drawn[: quotas[label]], key=lambda sample: picture_name(sample.picture))
        spare[label] = (*drawn[quotas[label] :], *data.spare.get(label, ()))
    return replace(data, train=tuple(kept), spare=spare)


def _by_label(samples: tuple[Sample, ...]) -> dict[int, list[Sample]]:
    by_label: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_label[sample.label].append(sample)
    return dict(by_label)


def _shuffled(samples: list[Sample], folder: str, seed: str) -> list[Sample]:
    order = sorted(samples, key=lambda sample: picture_name(sample.picture))
    _random(f"{seed}:{folder}").shuffle(order)
    return order


def _level(sizes: Mapping[int, int], limit: int, seed: int) -> dict[int, int]:
    """Give every class the same quota, or all it has if that is fewer; the sum is `limit`."""
    quotas = dict.fromkeys(sizes, 0)
    left = limit
    while left > 0:
        open_classes = [label for label in sizes if quotas[label] < sizes[label]]
        if not open_classes:
            break
        each = min(sizes[label] - quotas[label] for label in open_classes)
        each = min(each, left // len(open_classes))
        if each == 0:  # fewer left than classes: draw the classes that get one more
            open_classes = _random(f"{seed}:rest").sample(sorted(open_classes), left)
            each = 1
        for label in open_classes:
            quotas[label] += each
            left -= each
    return quotas


def _proportional(sizes: Mapping[int, int], total: int, seed: int) -> dict[int, int]:
    """Give quotas in proportion to the sizes, by largest remainder, at most size - 1."""
    count = sum(sizes.values())
    exact = {label: total * size / max(count, 1) for label, size in sizes.items()}
    quotas = {label: min(int(exact[label]), size - 1) for label, size in sizes.items()}
    order = sorted(sizes)
    _random(f"{seed}:rest").shuffle(order)
    order.sort(key=lambda label: int(exact[label]) - exact[label])  # stable: equals stay shuffled
    left = min(total, count - len(sizes)) - sum(quotas.values())
    while left > 0:
        for label in order:
            if left > 0 and quotas[label] < sizes[label] - 1:
                quotas[label] += 1
                left -= 1
    return quotas


def _random(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - reproducible, not secret
