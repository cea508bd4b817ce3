"""The base model's features of a task's pictures, computed once and cached.

A base model never changes, so its features of a picture are the same for every recipe, method and
registry. They are kept in the user's cache, keyed by the pictures' paths, inodes, sizes and times.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from condu_cli.backbone.features import image_features
from condu_cli.backbone.user_cache import UserCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.labelled import Sample

CACHE = UserCache("features")


class Seen(NamedTuple):
    """Some pictures with their unit image features (B, E) and pooled features (B, P), float32."""

    samples: list[Sample]
    image: NDArray[np.float32]
    pooled: NDArray[np.float32]


class PooledTable:
    """The pooled features of the pictures that the base model has seen, by picture."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.float32]] = []
        self._rows: dict[Sample, int] = {}

    def add(self, seen: Seen) -> None:
        """Add a batch."""
        start = len(self._rows)
        self._rows.update({sample: start + i for i, sample in enumerate(seen.samples)})
        self._parts.append(seen.pooled)

    def __contains__(self, sample: Sample) -> bool:
        return sample in self._rows

    def of(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Return pooled features (N, P), float32, in the order of the samples."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        rows: NDArray[np.float32] = self._parts[0][[self._rows[sample] for sample in samples]]
        return rows


class BaseFeatures:
    """The base model's features of a fixed list of pictures, from the cache or computed."""

    def __init__(self, base: DualEncoder, samples: Sequence[Sample]) -> None:
        self._base = base
        self._key = _key(base, samples)
        self._computed: list[Seen] = []
        kept = None if self._key is None else CACHE.load(self._key)
        self._rows: dict[str, int] = {}
        if kept is not None:
            self._image, self._pooled = kept["image"], kept["pooled"]
            names = bytes(kept["names"]).decode("utf-8", "surrogateescape").split("\0")
            self._rows = {name: row for row, name in enumerate(names)}

    @property
    def kept(self) -> bool:
        """Whether they are in the cache."""
        return bool(self._rows)

    def known(self, samples: Sequence[Sample]) -> Seen:
        """Return the cached features of those samples that have any."""
        found = [sample for sample in samples if _name(sample) in self._rows]
        rows = [self._rows[_name(sample)] for sample in found]
        return Seen(found, self._image[rows], self._pooled[rows])

    def compute(self, samples: list[Sample], pixels: Tensor) -> Seen:
        """Compute the features of pictures (B, 3, S, S) from the evaluation transform."""
        found = image_features(self._base, pixels)
        seen = Seen(samples, found.image.numpy(), found.pooled.numpy())
        self._computed.append(seen)
        return seen

    def keep(self) -> None:
        """Save what was computed in the cache."""
        if self._key is None or not self._computed:
            return
        names = [_name(sample) for seen in self._computed for sample in seen.samples]
        joined = "\0".join(names).encode("utf-8", "surrogateescape")
        CACHE.save(
            self._key,
            {
                "image": np.concatenate([seen.image for seen in self._computed]),
                "pooled": np.concatenate([seen.pooled for seen in self._computed]),
                "names": np.frombuffer(joined, np.uint8),
            },
        )


def _key(base: DualEncoder, samples: Sequence[Sample]) -> list[str] | None:
    """Return everything that the features depend on; None if the pictures are not files."""
    if not samples or not all(isinstance(sample.picture, Path) for sample in samples):
        return None
    about = [
        base.info.weights_sha256,
        str(base.preprocessing),
        f"torch {version('torch')} on {base.device.type}",
    ]
    try:
        return about + [_state(sample) for sample in samples]
    except OSError:  # a missing picture; reading the pictures reports it
        return None


def _state(sample: Sample) -> str:
    found = os.stat(_name(sample))
    times = f"{found.st_mtime_ns} {found.st_ctime_ns}"
    return f"{_name(sample)} {found.st_ino} {found.st_size} {times}"


def _name(sample: Sample) -> str:
    return os.path.abspath(str(sample.picture))
