"""Prototypes: the base model's features of a task's classes.

All features come from the base model, images through the evaluation transform. Three parts are kept
separately, so that any router can be built from them: the text feature, the mean image feature, and
the mean pooled feature of the image tower before its projection. Further arrays can be stored
beside them for routers that need more, such as a covariance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condu_cli.core.arrays.layout import Float32, Float64, InvalidStateError, Tensors
from condu_cli.core.routing.own_images import OwnImages

Ints = NDArray[np.int64]
PARTS = ("text", "image", "pooled", "counts")
"""The arrays that all prototypes have."""
OWN_SIMILARITIES = "own_similarities"
"""A further array, ascending float32 (K,): how similar the task's own images are to its classes."""


@dataclass(frozen=True, eq=False)
class Prototypes:
    """The prototypes of one task's C classes.

    `text`: float32 (C, E), unit rows. `image`: float32 (C, E), mean of unit image features.
    `pooled`: float32 (C, P), mean of unit pooled features. `counts`: int64 (C,), images per
    class; a class without images has zero rows in `image` and `pooled`. `extra`: further arrays by
    name, of any shape and dtype that a blob can hold, for routers that know them.
    Source: ConDU (arXiv 2503.10705), prototypes; `pooled` is condu's own.
    """

    text: Float32
    image: Float32
    pooled: Float32
    counts: Ints
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = sorted(set(PARTS).intersection(self.extra))
        if taken:
            raise ValueError(f"{taken[0]!r} is a part of the prototypes, not a further array")

    @property
    def paper(self) -> Float32:
        """The paper's prototype: text part plus image part, float32 (C, E), not unit."""
        return self.text + self.image

    @property
    def own_similarities(self) -> Float32:
        """How similar the task's own images are to its classes, ascending (K,); empty if unknown.

        Prototypes made before these were measured have none, and so have those without images.
        """
        return self.extra.get(OWN_SIMILARITIES, np.empty(0, dtype=np.float32))

    def only(self, classes: Sequence[int]) -> "Prototypes":
        """Return the prototypes of some classes, by index; further arrays stay as they are."""
        rows = list(classes)
        return replace(
            self,
            text=self.text[rows],
            image=self.image[rows],
            pooled=self.pooled[rows],
            counts=self.counts[rows],
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays by name, as a blob stores them."""
        return {
            "text": self.text,
            "image": self.image,
            "pooled": self.pooled,
            "counts": self.counts,
            **self.extra,
        }

    @classmethod
    def from_arrays(cls, arrays: Tensors) -> "Prototypes":
        """Build from stored arrays, each read once.

        Arrays with other names, perhaps a newer version's, are kept unchanged. Raises
        InvalidStateError naming one that is missing, misshapen, of another dtype, or not finite.
        """
        for name in PARTS:
            if name not in arrays:
                raise InvalidStateError(name, "is missing")
        values = {name: arrays[name] for name in arrays}
        parts = {name: values.pop(name) for name in PARTS}
        _check_stored(parts)
        _check_similarities(values.get(OWN_SIMILARITIES))
        return cls(**parts, extra=values)


class PrototypeBuilder:
    """Accumulates a task's features batch by batch.

    `text_features`: (C, E), one row per class, averaged over templates. `pooled_size`: P.
    Raises ValueError for arrays of wrong shape, values that are not finite, or labels that
    are not integers in 0..C-1.
    """

    def __init__(self, text_features: NDArray[Any], pooled_size: int) -> None:
        text = _matrix("text features", text_features)
        classes, embedding = text.shape
        self._text = unit_rows(text)
        self._image = np.zeros((classes, embedding))
        self._pooled = np.zeros((classes, pooled_size))
        self._counts = np.zeros(classes, dtype=np.int64)
        self._own = OwnImages()

    def add(self, image_features: NDArray[Any], pooled: NDArray[Any], labels: NDArray[Any]) -> None:
        """Add a batch: image features (B, E), pooled features (B, P), class indices (B,)."""
        images = _matrix("image features", image_features, self._image.shape[1])
        pools = _matrix("pooled features", pooled, self._pooled.shape[1])
        indices = self._labels(labels)
        if not len(images) == len(pools) == len(indices):
            sizes = f"{len(images)}, {len(pools)} and {len(indices)}"
            raise ValueError(f"image features, pooled features and labels differ: {sizes} rows")
        # Sequential additions, so that the result does not depend on the batches.
        unit = unit_rows(pools)
        np.add.at(self._image, indices, unit_rows(images))
        np.add.at(self._pooled, indices, unit)
        np.add.at(self._counts, indices, 1)
        self._own.add(unit, indices)

    def build(self) -> Prototypes:
        """Return the prototypes of everything added so far, and how similar its images are."""
        divisor = np.maximum(self._counts, 1)[:, None]
        own = self._own.similarities(self._pooled, self._counts)
        return Prototypes(
            text=self._text.astype(np.float32),
            image=(self._image / divisor).astype(np.float32),
            pooled=(self._pooled / divisor).astype(np.float32),
            counts=self._counts.copy(),
            extra={OWN_SIMILARITIES: own} if len(own) else {},
        )

    def _labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"labels are {labels.dtype} {labels.shape}, not integers (N,)")
        classes = len(self._counts)
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"labels are in {labels.min()}..{labels.max()}, not 0..{classes - 1}")
        return labels


def unit_rows(values: NDArray[Any]) -> Float64:
    """Scale rows to length 1, in float64; a row of zeros stays zero."""
    wide = values.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: Float64 = wide / np.where(lengths > 0, lengths, 1.0)
    return unit


def _matrix(what: str, values: NDArray[Any], width: int | None = None) -> NDArray[Any]:
    if values.ndim != 2 or (width is not None and values.shape[1] != width):
        raise ValueError(f"{what} have shape {values.shape}, not (rows, {width or 'columns'})")
    if not np.isfinite(values).all():
        raise ValueError(f"{what} hold NaN or infinity")
    return values


def _check_stored(values: Mapping[str, NDArray[Any]]) -> None:
    for name in ("text", "image", "pooled"):
        array = values[name]
        if array.ndim != 2 or array.dtype != np.float32:
            raise InvalidStateError(name, f"is {array.dtype} {array.shape}, not a float32 matrix")
        if not np.isfinite(array).all():
            raise InvalidStateError(name, "holds NaN or infinity")
    classes = len(values["text"])
    if values["image"].shape != values["text"].shape:
        raise InvalidStateError("image", "differs in shape from the text part")
    if len(values["pooled"]) != classes:
        raise InvalidStateError("pooled", f"has {len(values['pooled'])} rows, not {classes}")
    counts = values["counts"]
    if counts.dtype != np.int64 or counts.shape != (classes,) or (counts < 0).any():
        raise InvalidStateError("counts", f"is not int64 ({classes},) of images per class")


def _check_similarities(own: NDArray[Any] | None) -> None:
    if own is None:
        return
    if own.dtype != np.float32 or own.ndim != 1:
        raise InvalidStateError(OWN_SIMILARITIES, f"is {own.dtype} {own.shape}, not float32 (K,)")
    if not (np.abs(own) <= 1).all() or (np.diff(own) < 0).any():
        raise InvalidStateError(OWN_SIMILARITIES, "does not hold ascending cosines")
