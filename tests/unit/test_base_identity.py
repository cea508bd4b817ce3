from dataclasses import replace
from typing import Any

import pytest

from condu_cli.base_identity import BaseIdentity
from condu_cli.preprocessing import Preparation

PLAIN = Preparation((0.25, 0.5, 0.5), (0.5, 0.5, 0.5))
BASE = BaseIdentity("ViT-B-16:openai", "ViT-B-16", "openai", "quick_gelu", "a" * 64, 224, PLAIN)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"id": "elsewhere", "pretrained": "/a.safetensors"}, None),
        ({"architecture": "ViT-B-16-quickgelu"}, None),
        (
            {"architecture": "ViT-B-32", "activation": "gelu"},
            ("architecture", "ViT-B-16", "ViT-B-32"),
        ),
        ({"activation": "gelu"}, ("activation", "quick_gelu", "gelu")),
        ({"weights_sha256": "a" * 63 + "b"}, ("weights", "a" * 24, "a" * 24)),
        ({"weights_sha256": "b" * 64}, ("weights", "a" * 24, "b" * 24)),
        ({"image_size": 336}, ("image size", "224", "336")),
        (
            {"preparation": replace(PLAIN, mean=(0.5, 0.5, 0.5))},
            ("mean of pictures", "0.25, 0.5, 0.5", "0.5, 0.5, 0.5"),
        ),
        (
            {"preparation": replace(PLAIN, resize_mode="squash")},
            ("resize_mode of pictures", "shortest", "squash"),
        ),
        ({"preparation": None}, None),
    ],
)
def test_what_differs_first_is_told(
    other: dict[str, Any], found: tuple[str, str, str] | None
) -> None:
    assert BASE.mismatch(replace(BASE, **other)) == found
