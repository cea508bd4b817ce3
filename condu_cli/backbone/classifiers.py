"""Text classifiers: turn class names and prompt templates into one unit vector per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.backbone.dual_encoder import DualEncoder

BATCH = 256


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
