"""The identity of a base model, as the backbone loads it and a registry records it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BaseIdentity:
    """A base model by architecture, weights and activation (QuickGELU or not).

    `weights_sha256` is the hash of the loaded weights, whichever file they came from;
    `image_size` is in pixels.
    """

    id: str
    architecture: str
    pretrained: str
    activation: str
    weights_sha256: str
    image_size: int

    def mismatch(
        self, architecture: str, activation: str, weights_sha256: str
    ) -> tuple[str, str, str] | None:
        """Compare what makes a base model with this one's.

        Returns what differs first and its two values, this model's first; None for the same
        model. `ViT-B-16-quickgelu` is the architecture `ViT-B-16`: activations are compared by
        themselves.
        """
        pairs = (
            ("architecture", _bare(self.architecture), _bare(architecture)),
            ("activation", self.activation, activation),
            ("weights", self.weights_sha256, weights_sha256),
        )
        return next((pair for pair in pairs if pair[1] != pair[2]), None)


def _bare(architecture: str) -> str:
    return architecture.removesuffix("-quickgelu")
