"""Prototypes of a new task: one pass of the base model over its training pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.backbone.classifiers import text_features
from condu_cli.backbone.features import image_features
from condu_cli.core.prototypes import PrototypeBuilder, Prototypes
from condu_cli.data.loading import PictureSet
from condu_cli.data.transforms import evaluation_transform
from condu_cli.errors import DataError
from condu_cli.workflows.progress import Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.backbone.base import DualEncoder
    from condu_cli.data.folders import LabelledPictures

BATCH = 64


def build_task_prototypes(
    base: DualEncoder,
    data: LabelledPictures,
    templates: Sequence[str],
    on_progress: ProgressCallback = silent,
) -> Prototypes:
    """Text, image and pooled prototypes of a task's classes, without augmentation.

    Source: ConDU (arXiv 2503.10705), prototypes; all features from the base model.

    Raises:
        DataError: there are no training pictures, or one cannot be read.

    """
    prep = base.preprocessing
    transform = evaluation_transform(
        prep.image_size, prep.mean, prep.std, prep.interpolation, prep.resize_mode
    )
    text = text_features(base, data.class_names, templates).cpu().numpy()
    pictures = PictureSet(data.train)
    builder: PrototypeBuilder | None = None
    done = 0
    for pixels, labels in pictures.batches(BATCH, transform):
        features = image_features(base, pixels)
        if builder is None:
            builder = PrototypeBuilder(text, features.pooled.shape[1])
        builder.add(features.image.numpy(), features.pooled.numpy(), labels.numpy())
        done += len(labels)
        on_progress(Progress("prototypes", done, len(pictures)))
    if builder is None:
        raise DataError("there are no training pictures", "Check --data")
    return builder.build()
