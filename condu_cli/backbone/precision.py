"""Which number format the towers compute in while they are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from condu_cli.errors import UsageError

if TYPE_CHECKING:
    from condu_cli.backbone.base import DualEncoder

PRECISION_CHOICES = ("auto", "float32", "bfloat16")


def resolve_precision(name: str, model: DualEncoder) -> str:
    """`auto` to the faster format that is measured to be safe for a model; others are checked.

    bfloat16 under autocast: weights, gradients and optimizer stay float32, so do the cosines and
    the loss. It is the faster one on GPUs that compute in it, and on CPUs with instructions for
    it for transformers; convolutional towers are slower with it there (docs/training.md).

    Raises:
        UsageError: no such format, or the device does not know it.

    """
    if name not in PRECISION_CHOICES:
        raise UsageError(
            f"--precision {name}: no such format", f"Choose one of {', '.join(PRECISION_CHOICES)}"
        )
    device = model.device.type
    if name == "auto":
        return "bfloat16" if model.fast_in_bfloat16 and _has_bfloat16(device) else "float32"
    if name == "bfloat16" and device == "cuda" and not torch.cuda.is_bf16_supported():
        raise UsageError("this GPU does not compute in bfloat16", "Leave --precision out")
    return name


def _has_bfloat16(device: str) -> bool:
    """Whether the hardware multiplies in bfloat16; emulation would be slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # oneDNN is slow in bfloat16 without these instructions, whatever torch accepts.
    return (
        device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512" and _amx_or_bf16()
    )


def _amx_or_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
