"""EfficientNet-lite's layers with batch norms and LoRA factors folded into the convolutions.

The statistics of batch norms never change here, so a norm is a factor and a shift per channel.
Multiplied into the weights at every call, they cost no pass over the feature maps, which are a
thousand times larger, neither forward nor backward, and nothing of them is kept for the gradient.
LoRA factors are added to the weights in the same way. The mathematics, and the gradients of all
layers' own parameters, stay the same except for rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from condu_cli.backbone.lora.factors import merged_weight

if TYPE_CHECKING:
    from collections.abc import Iterable

STEM, HEAD = ("conv_stem", "bn1"), ("conv_head", "bn2")
SEPARABLE = (("conv_dw", "bn1"), ("conv_pw", "bn2"))
INVERTED = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))
"""Convolutions and their norms in timm's names, in order."""
CEILING = 6.0


def feature_map(tower: Any, pixels: Tensor) -> Tensor:
    """Return what `tower.forward_features` does, (B, C, H / 32, W / 32), of images (B, 3, H, W).

    `tower` is timm's EfficientNet-lite, with or without LoRA factors.
    """
    x = _normed(tower, [STEM], pixels)
    for stage in tower.blocks:
        for block in stage:
            inner = _normed(block, INVERTED if hasattr(block, "conv_pwl") else SEPARABLE, x)
            x = inner.add_(x) if block.has_skip else inner
    return _normed(tower, [HEAD], x)


def _normed(owner: Any, layers: Iterable[tuple[str, str]], x: Tensor) -> Tensor:
    for convolution, norm in layers:
        x = _convolved(getattr(owner, convolution), getattr(owner, norm), x)
    return x


def _convolved(layer: Any, norm: Any, x: Tensor) -> Tensor:
    """Apply a convolution, its norm, and the norm's ReLU6 if it has one."""
    from timm.layers import Conv2dSame, conv2d_same

    weight, geometry = layer.weight, layer
    if not isinstance(layer, nn.Conv2d):
        # PEFT's own layer would add two more passes over the feature maps for the factors.
        weight, geometry = merged_weight(layer), layer.base_layer
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # (O,)
    shift = norm.bias - norm.running_mean * factor
    convolve: Any = conv2d_same if isinstance(geometry, Conv2dSame) else functional.conv2d
    y = convolve(
        x,
        weight * factor[:, None, None, None],  # (O, I / groups, k, k)
        shift,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups,
    )
    return y if isinstance(norm.act, nn.Identity) else _Relu6.apply(y)  # type: ignore[no-any-return]


class _Relu6(torch.autograd.Function):
    """ReLU6 in place that keeps its output, which the next layer keeps anyway.

    torch's own keeps its input as well: another copy of every feature map.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp_(0, CEILING)
        ctx.mark_dirty(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        # The output is 0 or 6 exactly where the input's derivative is 0.
        return torch.ops.aten.hardtanh_backward(gradient, y, 0.0, CEILING)  # type: ignore[no-any-return]
