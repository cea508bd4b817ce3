"""Heads stored beside their experts: linear classifiers that are not folded into the model.

logits = weights @ x + bias, for the unit pooled feature x of the expert's image tower, over the
task's own classes in order.
"""

import numpy as np

from condu_cli.core.arrays.layout import Float32, InvalidStateError, Tensors

PARTS = ("weights", "bias")


def check_head(arrays: Tensors, classes: int) -> dict[str, Float32]:
    """Return a head's two arrays: `weights` (classes, P) and `bias` (classes,), both float32.

    Raises InvalidStateError naming one that is missing, misshapen, of another dtype or not finite,
    or a third one.
    """
    for name in dict.fromkeys((*PARTS, *arrays)):
        if name not in arrays:
            raise InvalidStateError(name, "is missing")
        if name not in PARTS:
            raise InvalidStateError(name, "does not belong to a head")
    head = {name: arrays[name] for name in PARTS}
    for (name, array), dimensions in zip(head.items(), (2, 1), strict=True):
        if array.dtype != np.float32 or array.ndim != dimensions or len(array) != classes:
            form = f"float32 with {classes} rows and {dimensions} dimensions"
            raise InvalidStateError(name, f"is {array.dtype} {array.shape}, not {form}")
        if not np.isfinite(array).all():
            raise InvalidStateError(name, "holds NaN or infinity")
    return head
