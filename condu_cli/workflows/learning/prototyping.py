"""Build a new task's prototypes in the same pass that reads and checks its pictures.

The base model sees every picture whole and without augmentation. In the same pass the pictures are
decoded, checked and kept for training.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import torch

from condu_cli.backbone.classifiers import text_features
from condu_cli.core.routing.prototypes import PrototypeBuilder, Prototypes
from condu_cli.data.labelled import by_hash
from condu_cli.data.pictures.transforms import view_of
from condu_cli.errors import DataError, UsageError
from condu_cli.workflows.learning.base_features import BaseFeatures, PooledTable, Seen
from condu_cli.workflows.progress import Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.labelled import Sample
    from condu_cli.data.pictures.picture_sets import PictureSet
    from condu_cli.data.pictures.transforms import Transform

BATCH = 64


def build_task_prototypes(
    base: DualEncoder,
    pictures: PictureSet,
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    per_class: int | None = None,
    table: PooledTable | None = None,
    on_progress: ProgressCallback = silent,
) -> Prototypes:
    """Build text, image and pooled prototypes of a task's classes, without augmentation.

    Scans `pictures`, which then holds only the readable ones, in memory if they fit.
    `per_class`: the base model sees at most this many pictures of each class, the first in order of
    a hash of their names; all of them are read and checked. `table` gets the features.
    Source: ConDU (arXiv 2503.10705), prototypes; all features from the base model.

    Raises:
        DataError: there are no training pictures, or too many (or all of a class) cannot be read.
        UsageError: `per_class` is below 1.

    """
    if per_class is not None and per_class < 1:
        raise UsageError(
            f"prototype_images must be at least 1, not {per_class}",
            reason="too-few-prototype-images",
            parameter="prototype_images",
            value=per_class,
        )
    text = text_features(base, class_names, templates).cpu().numpy()
    transform = view_of(base.preprocessing)
    shown = (
        pictures.samples if per_class is None else first_of_each_class(pictures.samples, per_class)
    )
    features = BaseFeatures(base, shown)
    seen = _Pass(pictures, transform, per_class, on_progress)
    return _with_images(text, seen.through(features), table)


def _with_images(
    text: NDArray[np.float32], batches: Iterator[Seen], table: PooledTable | None
) -> Prototypes:
    builder: PrototypeBuilder | None = None
    for seen in batches:
        if builder is None:
            builder = PrototypeBuilder(text, seen.pooled.shape[1])
        if table is not None:
            table.add(seen)
        builder.add(seen.image, seen.pooled, np.array([s.label for s in seen.samples]))
    if builder is None:
        raise DataError("there are no training pictures", reason="no-prototype-pictures")
    return builder.build()


class _Pass:
    """One scan of all pictures, some of which the base model sees."""

    def __init__(
        self,
        pictures: PictureSet,
        transform: Transform,
        per_class: int | None,
        on_progress: ProgressCallback,
    ) -> None:
        self._pictures = pictures
        self._transform = transform
        self._per_class = per_class
        self._on_progress = on_progress

    def through(self, features: BaseFeatures) -> Iterator[Seen]:
        """Read all pictures; yield the features of those that the base model sees."""
        if features.kept:
            yield from self._kept(features)
            return
        for samples, pixels in self._batches():
            yield features.compute(samples, pixels)
        features.keep()

    def _kept(self, features: BaseFeatures) -> Iterator[Seen]:
        """Yield cached features, and read the pictures only for training."""
        self._pictures.read(self._on_done())
        readable = self._pictures.samples
        chosen = list(
            readable if self._per_class is None else first_of_each_class(readable, self._per_class)
        )
        known: set[Sample] = set()
        for start in range(0, len(chosen), BATCH):
            seen = features.known(chosen[start : start + BATCH])
            known.update(seen.samples)
            if seen.samples:
                yield seen
        # Unreadable last time, or a substitute for one that is unreadable now.
        for samples, pixels in self._again([s for s in chosen if s not in known]):
            yield features.compute(samples, pixels)

    def _on_done(self) -> Callable[[int], None]:
        total = len(self._pictures)
        return lambda done: self._on_progress(Progress("prototypes", done, total))

    def _batches(self) -> Iterator[tuple[list[Sample], Tensor]]:
        """Yield samples and their pictures (B, 3, S, S)."""
        scan = self._pictures.scan(self._transform, BATCH, self._on_done())
        if self._per_class is None:
            yield from scan
        else:
            yield from self._chosen(scan, self._per_class)

    def _chosen(
        self, scan: Iterator[tuple[list[Sample], Tensor]], per_class: int
    ) -> Iterator[tuple[list[Sample], Tensor]]:
        """Yield the first of every class in the order of a hash, in full batches.

        Which are first is certain only when all have been read: others replace those that turn out
        to be unreadable, and are decoded a second time.
        """
        expected = set(first_of_each_class(self._pictures.samples, per_class))
        shown: set[Sample] = set()
        waiting: list[tuple[Sample, Tensor]] = []
        for samples, pixels in scan:
            # Cloned: a view of one row would keep the whole batch in memory.
            waiting += [
                (s, p.clone()) for s, p in zip(samples, pixels, strict=True) if s in expected
            ]
            while len(waiting) >= BATCH:
                yield _stacked(waiting[:BATCH])
                shown.update(sample for sample, _ in waiting[:BATCH])
                waiting = waiting[BATCH:]
        if waiting:
            yield _stacked(waiting)
            shown.update(sample for sample, _ in waiting)
        yield from self._again(
            [s for s in first_of_each_class(self._pictures.samples, per_class) if s not in shown]
        )

    def _again(self, missing: Sequence[Sample]) -> Iterator[tuple[list[Sample], Tensor]]:
        """Decode pictures a second time; yield batches (B, 3, S, S)."""
        wanted = set(missing)
        readable = self._pictures.samples
        rows = [index for index, sample in enumerate(readable) if sample in wanted]
        for start in range(0, len(rows), BATCH):
            indices = rows[start : start + BATCH]
            pixels = self._pictures.whole(indices, self._transform)
            yield [readable[index] for index in indices], pixels


def _stacked(pairs: Sequence[tuple[Sample, Tensor]]) -> tuple[list[Sample], Tensor]:
    return [sample for sample, _ in pairs], torch.stack([pixels for _, pixels in pairs])


def first_of_each_class(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return the first `count` samples of each class in the order of a hash of their names."""
    by_label: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_label[sample.label].append(sample)
    return [sample for label in sorted(by_label) for sample in _first(by_label[label], count)]


def _first(samples: Sequence[Sample], count: int) -> list[Sample]:
    by_picture = {sample.picture: sample for sample in samples}
    return [by_picture[picture] for picture in by_hash(list(by_picture), "")[:count]]
