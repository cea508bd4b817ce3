"""Which number format the towers compute in while they are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from condu_cli.errors import UsageError

if TYPE_CHECKING:
    from condu_cli.backbone.dual_encoder import DualEncoder

PRECISION_CHOICES = ("auto", "float32", "bfloat16")


def resolve_precision(name: str, model: DualEncoder) -> str:
    """`auto` to the faster format that is measured to be safe for a model; others are checked.

    bfloat16 under autocast: weights, gradients and optimizer stay float32, so do the cosines and
    the loss. It is chosen on GPUs that compute in it, for transformers. On CPUs it was measured to
    be slower than float32, also with instructions for it (docs/training.md).

    Raises:
        UsageError: no such format, or the device does not know it.

    """
    if name not in PRECISION_CHOICES:
        raise UsageError(
            f"precision: no number format is called {name!r}",
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
            "this GPU does not compute in bfloat16",
            reason="precision-not-here",
            parameter="precision",
            value=name,
        )
    return name
