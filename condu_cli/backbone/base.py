"""What every base model must offer, whatever it is made of.

The rest of the program sees a base model only through `DualEncoder`: an image tower, a text
tower, one fixed logit scale, and the ordered list of parameters that fine-tuning may change.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a tensor: sizes in pixels, statistics on the 0..1 scale."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    """`shortest`: shorter side to `image_size`, then centre crop; `squash`: both sides."""
    fixed_size: bool = True
    """False where the image tower accepts other sizes (convolutional towers)."""


@dataclass(frozen=True)
class BaseInfo:
    """The identity of a base model, as a registry records it."""

    id: str
    architecture: str
    pretrained: str
    activation: str
    weights_sha256: str
    image_size: int


@dataclass(frozen=True)
class TrainingDefaults:
    """Recipe values that belong to the base model; a learning run may override each."""

    learning_rate: float
    iterations: int
    image_size: int
    batch_size: int = 32


class DualEncoder(nn.Module, ABC):
    """An image tower and a text tower that meet in one embedding space of width E.

    Always in evaluation mode, also while it is fine-tuned: normalisation statistics and all
    other buffers stay those of the base model, and dropout stays off.
    """

    info: BaseInfo
    preprocessing: Preprocessing
    training_defaults: TrainingDefaults
    logit_scale_value: float
    """Multiplies cosine similarities before softmax; frozen."""

    def train(self, mode: bool = True) -> DualEncoder:
        """Stay in evaluation mode whatever `mode` says."""
        return super().train(False)

    @abstractmethod
    def pool_images(self, pixels: Tensor) -> Tensor:
        """Images (B, 3, H, W) float32 to the image tower's features before projection (B, P)."""

    @abstractmethod
    def project_images(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, P) to unit image features (B, E)."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts to the tensors that `encode_tokens` takes, one row per text."""

    @abstractmethod
    def encode_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Tokens of N texts to unit text features (N, E)."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Images (B, 3, H, W) to unit image features (B, E)."""
        return self.project_images(self.pool_images(pixels))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit text features (N, E)."""
        tokens = {name: tensor.to(self.device) for name, tensor in self.tokenize(texts).items()}
        return self.encode_tokens(tokens)

    def prepare_pixels(self, pixels: Tensor) -> Tensor:
        """Move a batch to the model's device in the memory layout that its tower prefers."""
        return pixels.to(self.device)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @abstractmethod
    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Name to parameter, in the fixed order that a registry writes down.

        Full fine-tuning of both towers: every parameter but the frozen `logit_scale`. A
        parameter-efficient method would answer with its own factors here.
        """

    def expert_copy(self) -> DualEncoder:
        """Return an independent copy to be trained, or to be filled with an expert's weights."""
        return copy.deepcopy(self)

    def seal(self, info: BaseInfo) -> None:
        """Freeze what is not trainable and record the identity with the weights' hash."""
        self.train(False)
        trainable = {id(parameter) for parameter in self.trainable_parameters().values()}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trainable)
        self.info = replace(info, weights_sha256=weights_sha256(self))


def weights_sha256(module: nn.Module) -> str:
    """Hash every parameter and buffer of a module by name, dtype, shape and bytes.

    The same weights give the same hash whichever file they came from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        # The memory format must not matter: hash in plain row-major order.
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
