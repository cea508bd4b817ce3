"""The number format of the towers during training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from condu_cli.errors import UsageError

if TYPE_CHECKING:
    from condu_cli.backbone.dual_encoder import DualEncoder

PRECISION_CHOICES = ("auto", "float32", "bfloat16")


def resolve_precision(name: str, model: DualEncoder) -> str:
    """Resolve `auto` to the faster format that is safe for a model; check any other name.

    bfloat16 means autocast: weights, gradients, optimizer, cosines and the loss stay float32.
    `auto` chooses it for transformers on GPUs that support it. On CPUs it was slower than float32,
    even with bfloat16 instructions (docs/training.md).

    Raises:
        UsageError: unknown format, or one that the device does not support.

    """
    if name not in PRECISION_CHOICES:
        raise UsageError(
            f"precision: unknown number format {name!r}",
            reason="unknown-choice",
            parameter="precision",
            value=name,
            choices=PRECISION_CHOICES,
        )
    device = model.device.type
    if name == "auto":
        native = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native and model.fast_in_bfloat16 else "float32"
    if name == "bfloat16" and device == "cuda" and not torch.cuda.is_bf16_supported():
        raise UsageError(
            "this GPU does not support bfloat16",
            reason="precision-not-here",
            parameter="precision",
            value=name,
        )
    return name
