"""What names a base model: what the backbone loads and what a registry records are compared."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BaseIdentity:
    """A base model by architecture, weights and activation (QuickGELU or not).

    `weights_sha256` names the loaded weights, whichever file they came from; `image_size` in
    pixels.
    """

    id: str
    architecture: str
    pretrained: str
    activation: str
    weights_sha256: str
    image_size: int
