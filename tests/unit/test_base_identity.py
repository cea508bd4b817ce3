import pytest

from condu_cli.base_identity import BaseIdentity

BASE = BaseIdentity("ViT-B-16:openai", "ViT-B-16", "openai", "quick_gelu", "a" * 64, 224)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (("ViT-B-16", "quick_gelu", "a" * 64), None),
        (("ViT-B-16-quickgelu", "quick_gelu", "a" * 64), None),
        (("ViT-B-32", "gelu", "b" * 64), ("architecture", "ViT-B-16", "ViT-B-32")),
        (("ViT-B-16", "gelu", "b" * 64), ("activation", "quick_gelu", "gelu")),
        (("ViT-B-16", "quick_gelu", "b" * 64), ("weights", "a" * 64, "b" * 64)),
    ],
)
def test_what_differs_first_is_told(
    other: tuple[str, str, str], found: tuple[str, str, str] | None
) -> None:
    assert BASE.mismatch(*other) == found
