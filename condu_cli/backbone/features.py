"""One pass of an image tower over labelled or unlabelled pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder


class ImageFeatures(NamedTuple):
    """Unit image features (B, E) and pooled features before the projection (B, P), float32."""

    image: Tensor
    pooled: Tensor


@torch.inference_mode()
def image_features(model: DualEncoder, pixels: Tensor) -> ImageFeatures:
    """Both kinds of features of a batch of pictures, on the CPU."""
    pooled = model.pool_images(model.prepare_pixels(pixels))
    return ImageFeatures(model.project_images(pooled).float().cpu(), pooled.float().cpu())


@torch.inference_mode()
def class_logits(model: DualEncoder, pixels: Tensor, classifier: Tensor) -> Tensor:
    """Scaled cosines (B, C) of a batch with a text classifier (C, E), on the CPU."""
    images = model.encode_images(model.prepare_pixels(pixels))
    return (model.logit_scale_value * images @ classifier.T).float().cpu()
