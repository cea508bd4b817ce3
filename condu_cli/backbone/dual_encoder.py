"""What every base model must offer, whatever it is made of.

The rest of the program sees a base model only through `DualEncoder`: an image tower, a text
tower, one fixed logit scale, and the ordered list of parameters that fine-tuning may change.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from condu_cli.backbone.lora.factors import (
    WEIGHT,
    Factors,
    adaptable_layers,
    chosen_layers,
    inject,
    injected_name,
    matching,
)
from condu_cli.backbone.prompts import encode_prompts
from condu_cli.errors import BaseModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from condu_cli.backbone.lora.spec import LoraDefaults, LoraSpec
    from condu_cli.base_identity import BaseIdentity

TRAIN_CHOICES = ("whole", "image", "text")
"""What of a model may be trained: both towers, or one of them."""


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


class DualEncoder(nn.Module, ABC):
    """An image tower and a text tower that meet in one embedding space of width E.

    Always in evaluation mode, also while it is fine-tuned: normalisation statistics and all
    other buffers stay those of the base model, and dropout stays off.
    """

    info: BaseIdentity
    preprocessing: Preprocessing
    recipe_family: str
    """Whose recipes fit: a key of train/recipes.json."""
    fast_in_bfloat16: bool
    """Whether a GPU that computes in bfloat16 should train it so."""
    lora_defaults: LoraDefaults
    logit_scale_value: float
    """Multiplies cosine similarities before softmax; frozen."""
    image_tower: str
    """How the names of the image tower's parameters begin; all others are the text tower's."""
    _tokenizer: Any = None
    """Whatever `tokenize` needs. It never changes, so all copies of a model share it."""
    _restriction: tuple[str, ...] | None = None
    """The names that `restricted_to` chose."""
    _factors: Factors | None = None
    """What `with_lora` trains; no part of the module, so that weights and hash stay the model's."""
    _injected = False
    """Whether PEFT's layers hold the factors: a copy that `training_copy` made."""

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

    def token_lengths(self, tokens: Mapping[str, Tensor]) -> Tensor | None:
        """How many token positions each of N texts needs (N,) int64; None: all there are.

        Where it answers with numbers, `encode_tokens` takes tokens that are cut to them.
        """
        return None

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Images (B, 3, H, W) to unit image features (B, E)."""
        return self.project_images(self.pool_images(pixels))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit text features (N, E)."""
        tokens = {name: tensor.to(self.device) for name, tensor in self.tokenize(texts).items()}
        return encode_prompts(self, tokens)

    def prepare_pixels(self, pixels: Tensor) -> Tensor:
        """Move a batch to the model's device in the memory layout that its tower prefers."""
        return pixels.to(self.device)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    @abstractmethod
    def library_model(self) -> nn.Module:
        """The model as its own library knows it; its state dict is what a checkpoint holds.

        The names of all trainable parameters are names of that state dict.
        """

    @abstractmethod
    def how_to_load(self, path: str) -> str:
        """One line of Python that loads a file of `library_model`'s state dict.

        Empty where no other library builds this model.
        """

    @abstractmethod
    def model_parameters(self) -> dict[str, nn.Parameter]:
        """Name to parameter: the model's own weights that fine-tuning could change, both towers.

        Every parameter but the frozen `logit_scale`, in the order that a registry writes down.
        """

    def tunable_parameters(self) -> dict[str, nn.Parameter]:
        """Name to parameter: everything that the registry's method could change, both towers.

        The model's own weights, or the factors of `with_lora` in their place.
        """
        factors = self._factors
        if factors is None:
            return self.model_parameters()
        if self._injected:
            model = self.library_model
            return {n: model.get_parameter(injected_name(n)) for n in factors.trained()}
        return {name: factors.tensors[name] for name in factors.trained()}

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Name to parameter: what fine-tuning does change, in the order of the registry.

        All of `tunable_parameters`, or those that `restricted_to` chose.
        """
        tunable = self.tunable_parameters()
        if self._restriction is None:
            return tunable
        return {name: tunable[name] for name in self._restriction}

    @property
    def trains_text(self) -> bool:
        """Whether fine-tuning changes the text tower."""
        return not all(n.startswith(self.image_tower) for n in self.trainable_parameters())

    def tower_parameters(self, train: str) -> list[str]:
        """Names of the tunable parameters of both towers (`whole`), or of one of them.

        Raises:
            UsageError: `train` is not in `TRAIN_CHOICES`.

        """
        if train not in TRAIN_CHOICES:
            raise UsageError(
                f"train: no part of a model is called {train!r}",
                reason="unknown-choice",
                parameter="train",
                value=train,
                choices=TRAIN_CHOICES,
            )
        return self._in_towers(self.tunable_parameters(), train)

    def _in_towers(self, names: Iterable[str], train: str) -> list[str]:
        """Those of the names that belong to both towers, or to one of them."""
        parts = {True: ("whole", "image"), False: ("whole", "text")}
        return [name for name in names if train in parts[name.startswith(self.image_tower)]]

    def lora_targets(self, train: str, patterns: Sequence[str] = ()) -> tuple[str, ...]:
        """Names of the layers that get LoRA factors, in the order of the model.

        `patterns`: globs over the names of layers; without any, the model's own choice.

        Raises:
            UsageError: a pattern fits no layer of that tower, or the model has no choice for it.

        """
        layers = self._in_towers(adaptable_layers(self.library_model), train)
        if patterns:
            return tuple(chosen_layers(layers, patterns))
        found = matching(layers, self.lora_defaults.targets)
        for tower in ("image", "text") if train == "whole" else (train,):
            if not self._in_towers(found, tower):
                raise UsageError(
                    f"{self.info.id}: no MLP layers of its {tower} tower are known (those of "
                    "vision transformers and of ConvNeXt are)",
                    reason="no-default-lora-targets",
                    base=self.info.id,
                    other_tower="text" if tower == "image" else "image",
                )
        return tuple(found)

    def with_lora(self, spec: LoraSpec) -> DualEncoder:
        """Return the same model with LoRA factors to train in the place of its weights.

        Weights, identity and hash are shared with this model, which stays as it is. The factors
        are those that every expert of a registry starts from; with them the model is this one.

        Raises:
            BaseModelError: a target is not a layer that can have factors.

        """
        known = set(adaptable_layers(self.library_model))
        unknown = [layer for layer in spec.targets if layer not in known]
        if unknown:
            raise BaseModelError(
                f"base model {self.info.id} has no layer called '{unknown[0]}' for LoRA factors",
                reason="layer-unknown",
                base=self.info.id,
                layer=unknown[0],
            )
        adapted = copy.copy(self)
        adapted._restriction = None
        adapted._factors = Factors.initial(spec, self._layer_weights(spec))
        return adapted

    def _layer_weights(self, spec: LoraSpec) -> dict[str, Tensor]:
        model = self.library_model
        return {layer: model.get_parameter(layer + WEIGHT).detach() for layer in spec.targets}

    @property
    def factors(self) -> Factors | None:
        """The factors of `with_lora`, None where the model's own weights are trained."""
        return self._factors

    def merge_factors(self) -> None:
        """Make an expert's weights follow its factors, after those were written.

        Nothing to do where the weights themselves are trained, or where PEFT's layers add the
        factors at every call.
        """
        if self._factors is not None and not self._injected:
            self._factors.merge(self._layer_weights(self._factors.spec))

    def restricted_to(self, names: Sequence[str]) -> DualEncoder:
        """Return the same model with only those parameters trainable, in that order.

        Weights, identity and hash are shared with this model, which stays as it is; all other
        weights of every expert are then the base model's.

        Raises:
            BaseModelError: no names at all, or one that this model has no tunable parameter for.

        """
        known = self.tunable_parameters()
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            what = f"parameter called '{unknown[0]}'" if unknown else "parameters to train"
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise BaseModelError(
                f"base model {self.info.id} has no {what}{more}",
                reason="parameter-unknown",
                base=self.info.id,
                unknown=unknown[:3],
            )
        restricted = copy.copy(self)
        restricted._restriction = tuple(names)
        return restricted

    def expert_copy(self) -> DualEncoder:
        """Return an independent copy to be filled with an expert's weights, then asked.

        It consists of the library's own modules, whatever the method. Whoever writes to what
        `weights_of` gives calls `put_weights` after it.
        """
        expert = copy.deepcopy(self, {id(self._tokenizer): self._tokenizer})
        expert._freeze()
        return expert

    def training_copy(self) -> DualEncoder:
        """Return an independent copy to be trained, starting as the base model.

        With LoRA it has PEFT's layers; its trainable parameters have the same names and order
        as this model's.
        """
        expert = self.expert_copy()
        if expert._factors is not None:
            inject(expert.library_model, expert._factors)
            expert._injected = True
            expert._freeze()
        return expert

    def _freeze(self) -> None:
        """Let gradients reach the trainable parameters and no others."""
        trainable = {id(parameter) for parameter in self.trainable_parameters().values()}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trainable)

    def seal(self, info: BaseIdentity) -> BaseIdentity:
        """Freeze what is not trainable; answer with the identity, the weights' hash in it."""
        self.train(False)
        self._freeze()
        return replace(info, weights_sha256=weights_sha256(self))


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
