"""The straight line between an expert's weights before it was tuned and after.

Between the two ends often lies more than at either (Wortsman et al., "Robust fine-tuning of
zero-shot models", 2022, arXiv 2109.01903).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder


class Line:
    """The weights of a tuned expert, and those that it started from.

    `origin`: the starting values of all trainable parameters, by name; they are not copied.
    """

    def __init__(self, expert: DualEncoder, origin: Mapping[str, Tensor]) -> None:
        self._parameters = expert.trainable_parameters()
        self._origin = origin
        self._tuned = {
            name: parameter.detach().clone()
            for name, parameter in self._parameters.items()
            if not torch.equal(parameter, origin[name])
        }

    def go_to(self, alpha: float) -> None:
        """Set the expert's weights to origin + alpha (tuned - origin); both ends are exact."""
        with torch.no_grad():
            for name, tuned in self._tuned.items():
                origin, parameter = self._origin[name], self._parameters[name]
                # Not by arithmetic at the ends: what diverged is NaN, and 0 * NaN is too.
                parameter.copy_(origin if alpha == 0 else torch.lerp(origin, tuned, alpha))
