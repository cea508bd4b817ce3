"""Classifiers: class texts as one unit vector per class, or a head beside an expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from condu_cli.backbone.dual_encoder import DualEncoder

BATCH = 256


@dataclass(frozen=True, eq=False)
class TorchHead:
    """A head beside an expert, on the expert's device: `weights` (C, P) and `bias` (C,)."""

    weights: Tensor
    bias: Tensor

    @classmethod
    def on(
        cls, device: torch.device, weights: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> TorchHead:
        """Move a head's arrays to a device."""
        return cls(torch.tensor(weights, device=device), torch.tensor(bias, device=device))

    def __call__(self, pooled: Tensor) -> Tensor:
        """Return the scores (B, C), float32, of the expert's pooled features (B, P)."""
        unit = functional.normalize(pooled.float(), dim=-1)
        return functional.linear(unit, self.weights, self.bias)


def fill_template(template: str, class_name: str) -> str:
    """Replace `{}` in a template with a class name."""
    return template.replace("{}", class_name)


def text_features(
    model: DualEncoder, class_names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Return unit text features (C, E): the normalised mean over templates of unit prompt features.

    Prompt ensembling as in CLIP (Radford et al., 2021, section 3.1.4).
    """
    prompts = [fill_template(t, name) for name in class_names for t in templates]
    with torch.inference_mode():
        parts = [model.encode_texts(prompts[i : i + BATCH]) for i in range(0, len(prompts), BATCH)]
        features = torch.cat(parts).view(len(class_names), len(templates), -1)
        return functional.normalize(features.mean(dim=1), dim=-1)
