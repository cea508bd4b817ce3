"""The identity of a base model, as the backbone loads it and a registry records it."""

from dataclasses import dataclass
from typing import Any

from condu_cli.preprocessing import Preparation

HUB_PREFIX = "hf-hub:"
"""How the name of an architecture begins that is a repository on the Hugging Face hub."""


@dataclass(frozen=True)
class BaseIdentity:
    """A base model by architecture, weights, activation (QuickGELU or not) and preparation.

    `weights_sha256` is the hash of the loaded weights, whichever file they came from;
    `image_size` is in pixels. `preparation` is None in the record of a registry or a file from
    before it was recorded.
    """

    id: str
    architecture: str
    pretrained: str
    activation: str
    weights_sha256: str
    image_size: int
    preparation: Preparation | None = None

    def mismatch(self, other: "BaseIdentity") -> tuple[str, str, str] | None:
        """Compare what makes a base model with another one's.

        Returns what differs first and its two values in words, this model's first; None for the
        same model. `ViT-B-16-quickgelu` is the architecture `ViT-B-16`: activations are compared by
        themselves. Preparations are compared if both are known.
        """
        bare = without_activation
        pairs: list[tuple[str, Any, Any]] = [
            ("architecture", bare(self.architecture), bare(other.architecture)),
            ("activation", self.activation, other.activation),
            ("weights", self.weights_sha256, other.weights_sha256),
            ("image size", self.image_size, other.image_size),
        ]
        if self.preparation is not None and other.preparation is not None:
            one, two = self.preparation.to_record(), other.preparation.to_record()
            pairs += [(f"{name} of pictures", one[name], two[name]) for name in one]
        differing = ((what, _words(a), _words(b)) for what, a, b in pairs if a != b)
        return next(differing, None)


def parts_of(base_id: str) -> tuple[str, str, str]:
    """Split the name of a base model into architecture, colon and weights, like `str.partition`."""
    hub = HUB_PREFIX if base_id.startswith(HUB_PREFIX) else ""
    architecture, colon, weights = base_id.removeprefix(hub).partition(":")
    return hub + architecture, colon, weights


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{number:g}" for number in value)
    return str(value)[:24]  # enough of a hash


def without_activation(architecture: str) -> str:
    """Return the name of an architecture without what some say of their activation."""
    return architecture.removesuffix("-quickgelu")
