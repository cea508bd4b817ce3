"""The base model's features of whole data sets, kept in the user's cache, for other benchmarks.

    python benchmarks/set_features.py DIR [BASE]

reads the training pictures of DIR, computes their features and does nothing with them, as a
baseline for whoever does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from condu_cli.backbone.base_models import load_base
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.transforms import view_of
from condu_cli.data.sources.own_data import read_source
from condu_cli.workflows.learning.base_features import BaseFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.labelled import LabelledPictures, Sample


class Features(NamedTuple):
    """Unit image features (N, E), pooled features (N, P) and labels (N,) of pictures."""

    image: np.ndarray
    pooled: np.ndarray
    labels: np.ndarray


class SetFeatures(NamedTuple):
    """One data set with the features of its training and test pictures."""

    name: str
    data: LabelledPictures
    train: Features
    test: Features


def set_features(base: DualEncoder, folder: Path) -> SetFeatures:
    """Read a data set's features from the cache, or compute and keep them."""
    data = read_source(folder)
    train, test = (_features(base, samples) for samples in (data.train, data.test))
    return SetFeatures(folder.name, data, train, test)


def _features(base: DualEncoder, samples: Sequence[Sample]) -> Features:
    features = BaseFeatures(base, samples)
    if features.kept:
        seen = features.known(samples)
        labels = np.array([sample.label for sample in seen.samples])
        return Features(seen.image, seen.pooled, labels)
    pictures = PictureSet(samples)
    view = view_of(base.preprocessing)
    parts = [features.compute(found, pixels) for found, pixels in pictures.scan(view)]
    features.keep()
    image, pooled = (np.concatenate([getattr(p, n) for p in parts]) for n in ("image", "pooled"))
    return Features(image, pooled, pictures.labels.numpy())


if __name__ == "__main__":
    _features(load_base((sys.argv[2:] or ["mini"])[0]), read_source(Path(sys.argv[1])).train)
