"""Between model weights and deltas: take the delta of a trained expert, or build an expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from condu_cli.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from condu_cli.backbone.base import DualEncoder


def delta_of(base: DualEncoder, expert: DualEncoder) -> dict[str, NDArray[np.float32]]:
    """Trainable parameters of the expert minus the base model's, float32, by name.

    The task vector, expert minus base, of ConDU (arXiv 2503.10705).
    """
    pristine = base.trainable_parameters()
    return {
        name: (parameter.detach() - pristine[name].detach()).float().cpu().numpy()
        for name, parameter in expert.trainable_parameters().items()
    }


def load_expert(
    base: DualEncoder, target: DualEncoder, delta: Iterable[tuple[str, NDArray[np.float32]]]
) -> None:
    """Write base + delta into the target's parameters, one tensor at a time.

    Always from the pristine base: adding and subtracting in place would accumulate rounding.

    Raises:
        IntegrityError: the delta's names or shapes are not the model's.

    """
    pristine, parameters = base.trainable_parameters(), target.trainable_parameters()
    written = set()
    with torch.no_grad():
        for name, values in delta:
            if name not in parameters or parameters[name].shape != values.shape:
                raise IntegrityError(
                    f"the delta of '{name}' does not fit the base model", "Run condu doctor"
                )
            difference = torch.from_numpy(values).to(parameters[name].device)
            torch.add(pristine[name], difference, out=parameters[name].data)
            written.add(name)
    if written != parameters.keys():
        missing = sorted(parameters.keys() - written)[0]
        raise IntegrityError(f"the delta lacks the parameter '{missing}'", "Run condu doctor")
