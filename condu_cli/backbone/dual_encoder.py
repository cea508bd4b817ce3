"""The interface of every base model.

The rest of the program uses a base model only through `DualEncoder`: an image tower, a text
tower, one fixed logit scale, and the ordered list of parameters that fine-tuning may change.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from condu_cli.backbone.lora.spec import LoraDefaults, LoraSpec
    from condu_cli.base_identity import BaseIdentity
    from condu_cli.preprocessing import Preparation, Preprocessing

TRAIN_CHOICES = ("whole", "image", "text")
"""The parts of a model that can be trained: both towers, or one of them."""


class DualEncoder(nn.Module, ABC):
    """An image tower and a text tower with a shared embedding space of width E.

    It is always in evaluation mode, even while it is fine-tuned: normalisation statistics and all
    other buffers stay those of the base model, and dropout stays off.
    """

    info: BaseIdentity
    preprocessing: Preprocessing
    assumed_preparation: str | None = None
    """On what grounds the preparation of pictures is assumed; None if it is known."""
    recipe_family: str
    """The recipes to use: a key of train/recipes.json."""
    fast_in_bfloat16: bool
    """Whether to train it in bfloat16 on GPUs that support it."""
    lora_defaults: LoraDefaults
    logit_scale_value: float
    """Multiplies cosine similarities before softmax; frozen."""
    image_tower: str
    """Prefix of the image tower's parameter names; all others are the text tower's."""
    early_stages: tuple[str, ...] = ()
    """Prefixes of the image tower's parameters that see edges and textures, not things."""
    added_parameters: frozenset[str] = frozenset()
    """Parameters that condu adds to the library's model; zero in the base model, and no part of its
    hash, so that registries which do not train them keep their base model."""
    _tokenizer: Any = None
    """What `tokenize` needs. It never changes, so all copies of a model share it."""
    _restriction: tuple[str, ...] | None = None
    """The names given to `restricted_to`."""
    _factors: Factors | None = None
    """The factors of `with_lora`; outside the module, so that weights and hash stay the same."""
    _injected = False
    """Whether PEFT's layers hold the factors: true for copies by `training_copy`."""

    def train(self, mode: bool = True) -> DualEncoder:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)

    @abstractmethod
    def pool_images(self, pixels: Tensor) -> Tensor:
        """Compute the image tower's features before projection, (B, P), of images (B, 3, H, W)."""

    @abstractmethod
    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """Project pooled features (B, P) to image features (B, E), before they are normalised."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Turn texts into the tensors that `encode_tokens` takes, one row per text."""

    @abstractmethod
    def encode_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Encode the tokens of N texts to unit text features (N, E)."""

    def token_lengths(self, tokens: Mapping[str, Tensor]) -> Tensor | None:
        """Return how many token positions each text needs, (N,) int64; None: all of them.

        If not None, `encode_tokens` accepts tokens that are cut to these lengths.
        """
        return None

    @property
    def linear_end(self) -> str | None:
        """The name of the parameter that maps pooled image features to the embedding.

        None if the image tower does not end in a linear map.
        """
        return None

    def linear_end_of(self, weights: Tensor, offset: Tensor, pooled: Tensor) -> Tensor:
        """Return what to add to `linear_end` to add weights @ u + offset to the embedding.

        `weights`: (E, P), for the unit pooled feature u; `offset`: (E,). `pooled`: features (N, P)
        of pictures on which the sum has to be right, if it cannot be right everywhere.
        """
        raise NotImplementedError(f"{self.info.id} does not end in a linear map")

    def project_images(self, pooled: Tensor) -> Tensor:
        """Project pooled features (B, P) to unit image features (B, E)."""
        return functional.normalize(self.embed_pooled(pooled), dim=-1)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) to unit image features (B, E)."""
        return self.project_images(self.pool_images(pixels))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts to unit text features (N, E)."""
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
        """The model of its own library, whose state dict is stored in checkpoints.

        All trainable parameters have their names in that state dict.
        """

    @abstractmethod
    def how_to_load(self, path: str) -> str:
        """Return a line of Python that loads a file with `library_model`'s state dict.

        Empty if no other library can build this model.
        """

    @abstractmethod
    def model_parameters(self) -> dict[str, nn.Parameter]:
        """Return the model's own tunable weights in both towers, by name.

        That is every parameter except the frozen `logit_scale`, in the registry's order.
        """

    def tunable_parameters(self) -> dict[str, nn.Parameter]:
        """Return all parameters that the registry's method could change in both towers, by name.

        That is the model's own weights, or the factors of `with_lora` instead.
        """
        factors = self._factors
        if factors is None:
            return self.model_parameters()
        if self._injected:
            model = self.library_model
            return {n: model.get_parameter(injected_name(n)) for n in factors.trained()}
        return {name: factors.tensors[name] for name in factors.trained()}

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that fine-tuning changes, by name, in the registry's order.

        That is all of `tunable_parameters`, or those chosen by `restricted_to`.
        """
        tunable = self.tunable_parameters()
        if self._restriction is None:
            return tunable
        return {name: tunable[name] for name in self._restriction}

    @property
    def trains_text(self) -> bool:
        """Whether fine-tuning changes the text tower."""
        return not all(n.startswith(self.image_tower) for n in self.trainable_parameters())

    @property
    def trains_image(self) -> bool:
        """Whether fine-tuning changes the image tower."""
        return any(n.startswith(self.image_tower) for n in self.trainable_parameters())

    def tower_parameters(self, train: str) -> list[str]:
        """Return the names of the tunable parameters of both towers (`whole`), or of one.

        Raises:
            UsageError: `train` is not in `TRAIN_CHOICES`.

        """
        if train not in TRAIN_CHOICES:
            raise UsageError(
                f"train: unknown part of a model: {train!r}",
                reason="unknown-choice",
                parameter="train",
                value=train,
                choices=TRAIN_CHOICES,
            )
        return self._in_towers(self.tunable_parameters(), train)

    def _in_towers(self, names: Iterable[str], train: str) -> list[str]:
        """Return the names that belong to both towers, or to one of them."""
        parts = {True: ("whole", "image"), False: ("whole", "text")}
        return [name for name in names if train in parts[name.startswith(self.image_tower)]]

    def lora_targets(self, train: str, patterns: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the names of the layers that get LoRA factors, in the model's order.

        `patterns`: globs for names of layers; by default, the model's own choice.

        Raises:
            UsageError: a pattern matches no layer of that tower, or the model has no default.

        """
        layers = self._in_towers(adaptable_layers(self.library_model), train)
        if patterns:
            return tuple(chosen_layers(layers, patterns))
        found = matching(layers, self.lora_defaults.targets)
        for tower in ("image", "text") if train == "whole" else (train,):
            if not self._in_towers(found, tower):
                raise UsageError(
                    f"{self.info.id}: the MLP layers of its {tower} tower are not known (those of "
                    "vision transformers and ConvNeXt are)",
                    reason="no-default-lora-targets",
                    base=self.info.id,
                    other_tower="text" if tower == "image" else "image",
                )
        return tuple(found)

    def with_lora(self, spec: LoraSpec) -> DualEncoder:
        """Return this model with LoRA factors to train instead of its weights.

        Weights, identity and hash are shared with this model, which is not changed. The factors
        are those that every expert of a registry starts from; with them, the output is this
        model's.

        Raises:
            BaseModelError: a target is not an adaptable layer.

        """
        known = set(adaptable_layers(self.library_model))
        unknown = [layer for layer in spec.targets if layer not in known]
        if unknown:
            raise BaseModelError(
                f"base model {self.info.id} has no layer '{unknown[0]}' that can have LoRA factors",
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
        """The factors of `with_lora`, None if the model's own weights are trained."""
        return self._factors

    def merge_factors(self) -> None:
        """Update an expert's weights from its factors, after those were written.

        Does nothing if the weights themselves are trained, or if PEFT's layers add the factors in
        every call.
        """
        if self._factors is not None and not self._injected:
            self._factors.merge(self._layer_weights(self._factors.spec))

    def restricted_to(self, names: Sequence[str]) -> DualEncoder:
        """Return this model with only these parameters trainable, in this order.

        Weights, identity and hash are shared with this model, which is not changed. All other
        weights of every expert are then the base model's.

        Raises:
            BaseModelError: there are no names, or one is not a tunable parameter.

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

    def preparing(self, preparation: Preparation) -> DualEncoder:
        """Return this model with its pictures prepared in another way.

        Weights and hash are shared with this model, which is not changed.
        """
        other = copy.copy(self)
        other.preprocessing = replace(self.preprocessing, preparation=preparation)
        other.info = replace(self.info, preparation=preparation)
        other.assumed_preparation = None
        return other

    @property
    def assumption(self) -> str | None:
        """Say how pictures are prepared if that is an assumption, None otherwise."""
        if self.assumed_preparation is None:
            return None
        return (
            f"the checkpoint of base model {self.info.id} does not say how pictures are prepared: "
            f"assuming {self.preprocessing.preparation.words()} ({self.assumed_preparation})"
        )

    def tuning(self, part: str) -> DualEncoder:
        """Return this expert with only a part of its parameters left to train.

        `all` leaves all of them, `image` and `text` those of a tower, `late` those of the image
        tower without its early stages. Weights are shared; the others no longer require gradients.
        If the registry trains none of that part, all of its parameters are left.
        """
        names = list(self.trainable_parameters())
        if part == "all":
            chosen = names
        elif part == "late":
            image = self._in_towers(names, "image")
            chosen = [name for name in image if not name.startswith(self.early_stages)]
        else:
            chosen = self._in_towers(names, part)
        tuned = self.restricted_to(chosen or names)
        tuned._freeze()
        return tuned

    def expert_copy(self) -> DualEncoder:
        """Return an independent copy for an expert's weights.

        It consists of the library's own modules, whatever the method. After writing to the arrays
        of `weights_of`, call `put_weights`.
        """
        expert = copy.deepcopy(self, {id(self._tokenizer): self._tokenizer})
        expert._freeze()
        return expert

    def training_copy(self) -> DualEncoder:
        """Return an independent copy to train, which starts as the base model.

        With LoRA it has PEFT's layers; its trainable parameters have the names and order of this
        model's.
        """
        expert = self.expert_copy()
        if expert._factors is not None:
            inject(expert.library_model, expert._factors)
            expert._injected = True
            expert._freeze()
        return expert

    def _freeze(self) -> None:
        """Require gradients of the trainable parameters only."""
        trainable = {id(parameter) for parameter in self.trainable_parameters().values()}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trainable)

    def seal(self, info: BaseIdentity) -> BaseIdentity:
        """Freeze what is not trainable; return the identity with weights' hash and preparation."""
        self.train(False)
        self._freeze()
        return replace(
            info,
            weights_sha256=weights_sha256(self, without=self.added_parameters),
            preparation=self.preprocessing.preparation,
        )


def weights_sha256(module: nn.Module, without: Collection[str] = ()) -> str:
    """Hash the name, dtype, shape and bytes of every parameter and buffer of a module.

    The same weights give the same hash, whichever file they came from. `without`: names that do
    not count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name in without:
            continue
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        # Hash in row-major order: the memory format must not matter.
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
