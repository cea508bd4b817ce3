"""A model's weights as arrays: what the method reads deltas from and writes experts into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condu_cli.backbone.base import DualEncoder


def weights_of(model: DualEncoder) -> dict[str, Any]:
    """The trainable parameters themselves by name, to be read or written to.

    Numpy arrays that share the parameters' memory for a model on the CPU, tensors elsewhere.
    """
    tensors = {name: p.detach() for name, p in model.trainable_parameters().items()}
    if model.device.type != "cpu":
        return tensors
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def delta_of(base: DualEncoder, expert: DualEncoder) -> dict[str, Any]:
    """Trainable parameters of the expert minus the base model's, float32, by name.

    Arrays of the same kind and on the same device as `weights_of` gives them. The task vector,
    expert minus base, of ConDU (arXiv 2503.10705).
    """
    pristine = weights_of(base)
    return {name: weights - pristine[name] for name, weights in weights_of(expert).items()}
