"""Read a trigger from the arrays of one task's part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.codecs.condu.stored_masks import MASK_NAMES, decode_mask
from condu_cli.core.merging.method import Trigger

if TYPE_CHECKING:
    from condu_cli.core.arrays.layout import Tensors
    from condu_cli.core.merging.method import Method

FIGURES = ("rescaler", "l1_norm", "covered_norm")
MAY_LACK = "covered_norm"  # parts in the first format lack it; they had a global rescaler


def trigger_of(method: Method, part: Tensors, label: str = "") -> Trigger:
    """Return a part's mask and float32 rescaler; `check_trigger` checks their values.

    Raises InvalidStateError naming `label` + the array that is missing or unexpected, or a mask
    or rescaler in a form that no version wrote.
    """
    for name in FIGURES:
        may_lack = name == MAY_LACK and method.rescaler == "global"
        if name not in part and not may_lack:
            raise InvalidStateError(f"{label}{name}", "is missing")
    for name in sorted(set(part).difference(FIGURES, MASK_NAMES)):
        raise InvalidStateError(f"{label}{name}", "is not part of a trigger")
    rescaler = part["rescaler"]
    if rescaler.dtype == np.float64:  # the first format: float32 values stored as float64
        with np.errstate(over="ignore", invalid="ignore"):
            short = rescaler.astype(np.float32)
        if not np.array_equal(short, rescaler):
            raise InvalidStateError(f"{label}rescaler", "does not hold float32 values")
        rescaler = short
    return Trigger(decode_mask(part, method.layout, label), rescaler)
