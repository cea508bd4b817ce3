"""A model's weights as arrays, to read deltas from and write experts to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from condu_cli.backbone.dual_encoder import DualEncoder


IN_PLACE = ("cpu", "cuda")
"""Devices on which the method works on parameters in place; others (mps) lack float64."""


def weights_of(model: DualEncoder) -> dict[str, Any]:
    """Return the trainable parameters by name, to read, or to write and pass to `put_weights`.

    For a model on the CPU these are numpy arrays that share the parameters' memory, on CUDA the
    parameters' tensors, on any other device numpy copies.
    """
    tensors = {name: p.detach() for name, p in model.trainable_parameters().items()}
    if model.device.type not in IN_PLACE:
        return {name: tensor.to("cpu", copy=True).numpy() for name, tensor in tensors.items()}
    if model.device.type == "cpu":
        return {name: tensor.numpy() for name, tensor in tensors.items()}
    return tensors


def put_weights(model: DualEncoder, weights: dict[str, Any]) -> None:
    """Make what was written to the arrays of `weights_of` take effect in an expert.

    Call it after every write: copies are written back to the parameters, and LoRA factors are
    merged into the weights.
    """
    if model.device.type not in IN_PLACE:
        with torch.no_grad():
            for name, parameter in model.trainable_parameters().items():
                parameter.copy_(torch.from_numpy(weights[name]))
    model.merge_factors()


def delta_of(base: DualEncoder, expert: DualEncoder) -> dict[str, Any]:
    """Return the expert's trainable parameters minus the base model's, float32, by name.

    Arrays have the kind and device of `weights_of`. This is the task vector of ConDU (arXiv
    2503.10705).
    """
    pristine = weights_of(base)
    return {name: weights - pristine[name] for name, weights in weights_of(expert).items()}
