"""A model's weights as arrays: what the method reads deltas from and writes experts into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from condu_cli.backbone.dual_encoder import DualEncoder


IN_PLACE = ("cpu", "cuda")
"""Devices on which the method works on the parameters themselves; others lack float64 (mps)."""


def weights_of(model: DualEncoder) -> dict[str, Any]:
    """The trainable parameters by name, to be read, or written to and given to `put_weights`.

    Numpy arrays that share the parameters' memory for a model on the CPU, the parameters' tensors
    on CUDA, and numpy copies of them for any other device.
    """
    tensors = {name: p.detach() for name, p in model.trainable_parameters().items()}
    if model.device.type not in IN_PLACE:
        return {name: tensor.to("cpu", copy=True).numpy() for name, tensor in tensors.items()}
    if model.device.type == "cpu":
        return {name: tensor.numpy() for name, tensor in tensors.items()}
    return tensors


def put_weights(model: DualEncoder, weights: dict[str, Any]) -> None:
    """Make an expert be what was written to the arrays that `weights_of` gave.

    To be called after every writing: parameters that are not the same memory are written back,
    and LoRA factors are merged into the weights that answer.
    """
    if model.device.type not in IN_PLACE:
        with torch.no_grad():
            for name, parameter in model.trainable_parameters().items():
                parameter.copy_(torch.from_numpy(weights[name]))
    model.merge_factors()


def delta_of(base: DualEncoder, expert: DualEncoder) -> dict[str, Any]:
    """Trainable parameters of the expert minus the base model's, float32, by name.

    Arrays of the same kind and on the same device as `weights_of` gives them. The task vector,
    expert minus base, of ConDU (arXiv 2503.10705).
    """
    pristine = weights_of(base)
    return {name: weights - pristine[name] for name, weights in weights_of(expert).items()}
