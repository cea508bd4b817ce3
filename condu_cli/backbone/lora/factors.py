"""LoRA: which layers get factors, how factors are initialised, and how they are merged.

A layer's weight W gets W + (alpha / rank) * B @ A with A of shape (rank, in) and B of shape
(out, rank) (Hu et al., 2021, arXiv 2106.09685). ConDU unifies the factors, so all tasks must start
from the same ones: A is drawn from a seed, with the same numbers on every machine, and B is zero,
so that the model at initialisation is exactly the base model.

PEFT is used only for training. To answer, an expert's factors are merged into a copy of the model
built by its own library.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from condu_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from condu_cli.backbone.lora.spec import LoraSpec

FACTOR_A, FACTOR_B = ".lora_A.weight", ".lora_B.weight"
"""Suffixes that turn a layer's name into the names of its factors, as PEFT stores them."""
WEIGHT = ".weight"
ADAPTER = "default"
"""The name of the only adapter in PEFT's layers."""


class FactorShapes(NamedTuple):
    """The shapes of one layer's A and B."""

    a: tuple[int, ...]
    b: tuple[int, ...]


def factor_shapes(weight: Sequence[int], rank: int) -> FactorShapes:
    """Return the factors' shapes for a weight (out, in), or a 1x1 convolution's (out, in, 1, 1)."""
    out, fan_in, *ones = weight
    return FactorShapes((rank, fan_in, *ones), (out, rank, *ones))


def adaptable_layers(model: nn.Module) -> list[str]:
    """Return the names of layers that can have factors: linear ones and 1x1 convolutions.

    Only these two classes qualify: torch's attention reads the weight of its output projection, a
    subclass, without calling the layer, so factors beside it would train nothing. A convolution
    with groups or a larger kernel is not a product of two factors of these shapes.
    """
    return [name for name, module in model.named_modules() if _is_adaptable(module)]


def _is_adaptable(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        return module.kernel_size == (1, 1) and module.groups == 1
    return type(module) is nn.Linear


def matching(layers: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the layers that match at least one glob pattern, in their own order."""
    return [name for name in layers if any(fnmatchcase(name, pattern) for pattern in patterns)]


def chosen_layers(layers: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the layers that match a user's glob patterns, in the model's order.

    Raises:
        UsageError: a pattern matches none of them.

    """
    for pattern in patterns:
        if not matching(layers, [pattern]):
            raise UsageError(
                f"lora_targets: no layer that can have factors matches {pattern!r}",
                reason="no-such-layer",
                parameter="lora_targets",
                value=pattern,
                examples=_examples(layers),
            )
    return matching(layers, patterns)


def _examples(layers: Sequence[str], limit: int = 4) -> list[str]:
    """Return example layers with different last names."""
    ends = {name.rpartition(".")[2]: name for name in reversed(layers)}
    found = sorted(ends.values(), key=layers.index)
    return [*found[:limit], "…"] if len(found) > limit else found


def initial_a(name: str, shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Return the initial A factor, float32 of a shape (rank, in, …), which all tasks share.

    Uniform in [-1/sqrt(in), 1/sqrt(in)), PEFT's own choice (Kaiming with a = sqrt(5)). The raw
    stream of a bit generator is stable across versions of numpy, but its distributions are not; 24
    bits fill a float32's significand, so only the final product is rounded.
    """
    key = int.from_bytes(hashlib.sha256(f"{seed}|{name}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(math.prod(shape))  # uint64
    whole = (raw >> np.uint64(40)).astype(np.int32)  # 0 .. 2**24 - 1
    centred = (2 * whole - 2**24).astype(np.float32) / np.float32(2**24)  # [-1, 1), exact
    bound = np.float32(1 / math.sqrt(shape[1]))
    values: NDArray[np.float32] = (centred * bound).reshape(tuple(shape))
    return values


class Pristine:
    """The base model's own weights by layer, from which every merge starts.

    Deep copies of a model share them, so experts do not hold a second copy.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = dict(weights)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pristine:
        return self


@dataclass
class Factors:
    """The factors of a model by name, A before B for each layer, and the weights they adapt.

    Tensors are float32, A (rank, in), B (out, rank), with two more axes of length 1 for
    convolutions.
    """

    spec: LoraSpec
    tensors: dict[str, nn.Parameter]
    pristine: Pristine = field(repr=False)

    @classmethod
    def initial(cls, spec: LoraSpec, weights: Mapping[str, Tensor]) -> Factors:
        """Create the initial factors: A from the seed, B zero; `weights` are by layer name."""
        tensors = {}
        for layer in spec.targets:
            weight = weights[layer]
            shapes = factor_shapes(weight.shape, spec.rank)
            a = initial_a(layer + FACTOR_A, shapes.a, spec.seed)
            tensors[layer + FACTOR_A] = _parameter(torch.from_numpy(a), weight)
            tensors[layer + FACTOR_B] = _parameter(torch.zeros(shapes.b), weight)
        return cls(spec, tensors, Pristine(weights))

    def trained(self) -> list[str]:
        """Return the names of the factors that are trained, in order."""
        return [n for n in self.tensors if n.endswith(FACTOR_B) or not self.spec.freeze_a]

    def merge(self, weights: Mapping[str, Tensor]) -> None:
        """Write base weight + scale * B @ A to each layer's weight, by layer name.

        It always starts from the base model's weights, so nothing accumulates from call to call.
        If B is zero, the weight is the base model's, bit for bit.
        """
        with torch.no_grad():
            for layer, pristine in self.pristine.weights.items():
                a, b = self.tensors[layer + FACTOR_A], self.tensors[layer + FACTOR_B]
                weight = weights[layer]
                weight.copy_(pristine)
                if b.any():  # adding zero would turn -0 into 0
                    weight.add_(update(a, b, self.spec.scale).to(weight.dtype))

    def initial_sha256(self) -> str:
        """Hash the initial A factors: names, shapes and little-endian bytes."""
        digest = hashlib.sha256()
        for name, tensor in self.tensors.items():
            if name.endswith(FACTOR_A):
                values = tensor.detach().cpu().contiguous().numpy().astype("<f4", copy=False)
                digest.update(f"{name}|{values.shape}|".encode())
                digest.update(values.tobytes())
        return digest.hexdigest()


def _parameter(values: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(like.device), requires_grad=False)


def update(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return scale * B @ A of factors (rank, in) and (out, rank): (out, in[, 1, 1])."""
    product = b.flatten(1) @ a.flatten(1)  # (out, rank) @ (rank, in)
    return (scale * product).reshape(b.shape[0], a.shape[1], *a.shape[2:])


def merged_weight(layer: Any) -> Tensor:
    """Return the weight of one of PEFT's layers with its factors added, with their gradients."""
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    merged: Tensor = layer.base_layer.weight + update(a, b, layer.scaling[ADAPTER])
    return merged


def targets_pattern(spec: LoraSpec) -> str:
    """Return a regular expression that matches exactly the target layers.

    PEFT treats names in a list as suffixes, and a text tower's name can be a suffix of another.
    """
    return "|".join(re.escape(layer) for layer in spec.targets)


def inject(model: nn.Module, factors: Factors) -> None:
    """Replace a model's target layers by PEFT's layers that start from these factors."""
    import peft

    spec = factors.spec
    config = peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=targets_pattern(spec),
        lora_dropout=0.0,
        bias="none",
    )
    peft.inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    with torch.no_grad():
        for name, values in factors.tensors.items():
            model.get_parameter(injected_name(name)).copy_(values)


def injected_name(factor: str) -> str:
    """Return the name of a factor in PEFT's layers."""
    return f"{factor.removesuffix(WEIGHT)}.{ADAPTER}{WEIGHT}"
