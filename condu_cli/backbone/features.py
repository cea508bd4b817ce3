"""Features and logits of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from condu_cli.backbone.classifiers import TorchHead

if TYPE_CHECKING:
    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder


class ImageFeatures(NamedTuple):
    """Unit image features (B, E) and pooled features before the projection (B, P), float32."""

    image: Tensor
    pooled: Tensor


@torch.inference_mode()
def image_features(model: DualEncoder, pixels: Tensor) -> ImageFeatures:
    """Compute both kinds of features of a batch of pictures; return them on the CPU."""
    pooled = model.pool_images(model.prepare_pixels(pixels))
    return ImageFeatures(model.project_images(pooled).float().cpu(), pooled.float().cpu())


@torch.inference_mode()
def class_logits(model: DualEncoder, pixels: Tensor, classifier: Tensor | TorchHead) -> Tensor:
    """Return scores (B, C) of pictures, on the CPU, float32.

    They are scaled cosines with a text classifier (C, E), or those of a head beside the model.
    """
    prepared = model.prepare_pixels(pixels)
    if isinstance(classifier, TorchHead):
        return classifier(model.pool_images(prepared)).cpu()
    images = model.encode_images(prepared)
    return (model.logit_scale_value * images @ classifier.T).float().cpu()
