"""Turn a checkpoint that was fine-tuned elsewhere into an expert's delta."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from condu_cli.backbone.statements import noted_preparation
from condu_cli.backbone.weights.foreign_names import (
    NO_WEIGHTS,
    KnownNames,
    guess,
    known_names,
    some,
)
from condu_cli.errors import BaseModelError, DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.backbone.weights.checkpoints import Checkpoint
    from condu_cli.base_identity import BaseIdentity

MAX_DISTANCE = 0.5
"""A checkpoint at a larger relative distance from the base model was not fine-tuned from it.
Unrelated weights of the same shapes are about 1.4 apart (two independent vectors of equal length),
fine-tuned ones far below this threshold."""
BLOCK = 1 << 20
"""Elements of a tensor to work on at a time."""


class ForeignExpert(NamedTuple):
    """A checkpoint's delta by parameter, and warnings for the user.

    `distance` is ||theta - theta_0|| / ||theta_0|| over the trainable parameters.
    """

    delta: dict[str, NDArray[np.float32]]
    distance: float
    warnings: tuple[str, ...]


def expert_delta(base: DualEncoder, checkpoint: Checkpoint) -> ForeignExpert:
    """Return the checkpoint's trainable parameters minus the base model's, float32, in order.

    float32(base + delta) equals the checkpoint's weight bit for bit (except for the sign of a zero)
    if any float32 delta has that sum. If the checkpoint was made as base + delta, like all exports
    of condu, there is one. There may be none if a weight is much smaller than the base model's, or
    has the opposite sign: then the sum is the rounded weight, and a warning counts such weights.
    Weights in another dtype are cast to float32 first.

    What is not trainable stays the base model's in every expert. If the checkpoint has other
    running statistics or another logit scale, a warning names them.

    Raises:
        BaseModelError: the checkpoint belongs to another base model, according to condu's metadata,
            its parameters' names or shapes, or its distance.
        UsageError: it changes parameters that are not trainable in `base`.
        DataError: NaN, infinity, or tensors that are not floats.

    """
    weights, left_out = _checked_weights(base, checkpoint)
    delta: dict[str, NDArray[np.float32]] = {}
    sums = _Sums()
    for name, parameter in base.trainable_parameters().items():
        delta[name] = _delta_of(name, parameter, weights[name], checkpoint, sums)
    distance = sums.distance()
    refuse_unrelated(base, checkpoint, distance)
    told = [*_cast_warnings(base, weights), *_kept_warnings(base, weights)]
    told += [*_left_out_warnings(left_out), *_preparation_warnings(base, checkpoint)]
    if sums.rounded:
        told.append(
            f"{sums.rounded:,} weights are rounded, by at most {sums.furthest:.1e}: no float32 "
            "delta gives them exactly"
        )
    # An expert that is a head on the base model moves no weight.
    if not sums.moved and not checkpoint.metadata.get("head"):
        told.append("every weight equals the base model's: this expert has learned nothing")
    return ForeignExpert(delta, distance, tuple(told))


@dataclass
class _Sums:
    """What is counted over all weights: squares of the delta and of the base, and rounding."""

    moved: float = 0.0
    norm: float = 0.0
    rounded: int = 0
    furthest: float = 0.0

    def distance(self) -> float:
        if not self.norm:
            return math.inf if self.moved else 0.0
        return math.sqrt(self.moved / self.norm)


def _delta_of(
    name: str, parameter: Tensor, weight: Tensor, checkpoint: Checkpoint, sums: _Sums
) -> NDArray[np.float32]:
    """Return one parameter's delta, block by block: large tensors would need many copies."""
    pristine = float32_array(parameter)
    base, wanted = pristine.reshape(-1), float32_array(weight).reshape(-1)
    delta = np.empty(pristine.shape, np.float32)
    flat = delta.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        part = slice(start, start + BLOCK)
        finite(name, wanted[part], checkpoint)
        flat[part] = finite(name, exact_delta(base[part], wanted[part]), checkpoint)
        off = np.abs(base[part] + flat[part] - wanted[part])
        sums.rounded += int(np.count_nonzero(off))
        sums.furthest = max(sums.furthest, float(off.max(initial=0.0)))
        sums.moved += float(np.square(flat[part], dtype=np.float64).sum())
        sums.norm += float(np.square(base[part], dtype=np.float64).sum())
    return delta


def exact_delta(base: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the float32 delta, of the same shape, whose float32 sum with `base` is `weights`.

    The deltas with that sum form an interval around the exact difference. The rounded difference is
    one of the two floats next to the exact one, so it or one of its neighbours is in the interval,
    or no float is; then the rounded difference is returned.
    """
    with np.errstate(over="ignore"):  # the caller rejects infinity
        delta = np.asarray(weights - base, dtype=np.float32)
        wrong = np.asarray(base + delta != weights)
        if not wrong.any():
            return delta
        start, target, origin = delta[wrong], weights[wrong], base[wrong]
        best = start.copy()
        for direction in (-np.inf, np.inf):
            beside = np.nextafter(start, np.float32(direction))
            hit = origin + beside == target
            best[hit] = beside[hit]
    delta[wrong] = best
    return delta


def _checked_weights(
    base: DualEncoder, checkpoint: Checkpoint
) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return the tensors under the base model's names, checked except for values; others' names."""
    check_note(base, checkpoint)
    _check_activation(base, checkpoint)
    named = known_names(base, checkpoint.weights)
    weights = _with_added(base, named.weights)
    _check_names(base, weights, named, checkpoint)
    for name, parameter in base.tunable_parameters().items():
        if name in weights:
            _check_tensor(base, name, parameter, weights[name], checkpoint)
    _check_untrained(base, weights, checkpoint)
    return weights, named.left_out


def _check_activation(base: DualEncoder, checkpoint: Checkpoint) -> None:
    stated = checkpoint.statement.activation
    if stated not in (None, base.info.activation):
        raise _other_base(
            checkpoint, f"has activation {stated}, but {base.info.id} has {base.info.activation}"
        )


def float32_array(tensor: Tensor) -> NDArray[np.float32]:
    """Return a row-major float32 copy or view on the CPU."""
    plain = tensor.detach().to("cpu", torch.float32).contiguous()
    array: NDArray[np.float32] = plain.numpy()
    return array


def check_note(base: DualEncoder, checkpoint: Checkpoint) -> None:
    """Compare condu's metadata, if there is any, with the base model.

    Raises:
        BaseModelError: it names another base model.

    """
    note, info = checkpoint.metadata, base.info
    if not note:
        return
    mismatch = info.mismatch(_noted_identity(info, checkpoint))
    if mismatch is not None:
        what, ours, theirs = mismatch
        raise BaseModelError(
            f"{checkpoint.path}: was fine-tuned from base model {note.get('base')} with "
            f"{what} {theirs}, but {info.id} has {ours}",
            reason="checkpoint-of-other-base",
            path=checkpoint.path,
            base=info.id,
            found=note.get("base"),
        )


def _noted_identity(ours: BaseIdentity, checkpoint: Checkpoint) -> BaseIdentity:
    """Return the base model of a note; an expert's image size may be its own."""
    note = checkpoint.metadata
    try:
        preparation = noted_preparation(note)
    except ValueError as exc:
        raise DataError(
            f"{checkpoint.path}: condu's metadata in this file was altered: {exc}",
            reason="exported-note-damaged",
            path=checkpoint.path,
        ) from exc
    return replace(
        ours,
        architecture=str(note.get("architecture")),
        activation=str(note.get("activation")),
        weights_sha256=str(note.get("base_weights_sha256")),
        preparation=preparation,
    )


def _with_added(base: DualEncoder, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Add the base model's zeros for parameters that condu adds, if the checkpoint is older."""
    own = base.model_parameters()
    missing = [name for name in base.added_parameters if name not in weights]
    return {**weights, **{name: own[name] for name in missing}}


def _check_names(
    base: DualEncoder, weights: Mapping[str, Tensor], named: KnownNames, checkpoint: Checkpoint
) -> None:
    expected = base.trainable_parameters()
    missing = [name for name in expected if name not in weights]
    if missing:
        raise _other_base(
            checkpoint,
            f"lacks {len(missing):,} of {len(expected):,} parameters of base model "
            f"{base.info.id}: {some(missing)}; {guess(missing[0], checkpoint.weights)}",
        )
    if named.unexpected:
        raise _other_base(
            checkpoint,
            f"has {len(named.unexpected):,} parameters that base model {base.info.id} lacks: "
            f"{some(named.unexpected)}",
        )


def _check_tensor(
    base: DualEncoder, name: str, parameter: Tensor, tensor: Tensor, checkpoint: Checkpoint
) -> None:
    if tensor.shape != parameter.shape:
        raise _other_base(
            checkpoint,
            f"{name} has shape {tuple(tensor.shape)}, but {tuple(parameter.shape)} in base model "
            f"{base.info.id}",
        )
    if tensor.layout is not torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise DataError(
            f"{checkpoint.path}: {name} is not a plain tensor of floats but {tensor.dtype}",
            reason="checkpoint-not-float",
            path=checkpoint.path,
            tensor=name,
        )


def _other_base(checkpoint: Checkpoint, what: str) -> BaseModelError:
    return BaseModelError(
        f"{checkpoint.path}: {what}", reason="checkpoint-does-not-fit", path=checkpoint.path
    )


def _check_untrained(
    base: DualEncoder, weights: Mapping[str, Tensor], checkpoint: Checkpoint
) -> None:
    trainable = base.trainable_parameters()
    changed = [
        name
        for name, parameter in base.tunable_parameters().items()
        if name not in trainable and name in weights and _differs(parameter, weights[name])
    ]
    if changed and changed == [base.linear_end]:
        raise UsageError(
            f"{checkpoint.path}: has a head folded into {changed[0]}, which this registry does not "
            "train",
            reason="checkpoint-has-folded-head",
            path=checkpoint.path,
        )
    if changed:
        raise UsageError(
            f"{checkpoint.path}: changes {len(changed):,} parameters that this registry does not "
            f"train: {some(changed)}",
            reason="checkpoint-changes-more",
            path=checkpoint.path,
            changed=len(changed),
        )


def _differs(parameter: Tensor, tensor: Tensor) -> bool:
    """Return whether a tensor differs from the base model's, compared in the tensor's dtype."""
    ours = parameter.detach().to("cpu", tensor.dtype)
    return tensor.shape != ours.shape or not torch.equal(ours, tensor.detach().to("cpu"))


def finite(name: str, values: NDArray[np.float32], checkpoint: Checkpoint) -> NDArray[np.float32]:
    """Return the values; raise DataError for NaN or infinity."""
    if not np.isfinite(values).all():
        raise DataError(
            f"{checkpoint.path}: {name} holds NaN or infinity as float32",
            reason="checkpoint-not-finite",
            path=checkpoint.path,
            tensor=name,
        )
    return values


def _cast_warnings(base: DualEncoder, weights: Mapping[str, Tensor]) -> list[str]:
    names = {str(weights[n].dtype).removeprefix("torch.") for n in base.trainable_parameters()}
    others = sorted(names - {"float32"})
    if not others:
        return []
    return [
        f"the checkpoint's weights are {' and '.join(others)}, condu's are float32: the delta "
        "includes the rounding"
    ]


def _kept_warnings(base: DualEncoder, weights: Mapping[str, Tensor]) -> list[str]:
    tunable = base.tunable_parameters()
    changed = [
        name
        for name, ours in base.library_model.state_dict().items()
        if name not in tunable
        and name in weights
        and not name.endswith(NO_WEIGHTS)
        and _differs(ours.reshape(-1), weights[name].reshape(-1))
    ]
    if not changed:
        return []
    return [f"the base model's own values are kept for {len(changed):,} tensors: {some(changed)}"]


def _left_out_warnings(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [
        f"left out {len(names):,} tensors that belong to no part of the base model, like a "
        f"classifier of its own: {some(names)}; the expert classifies by class texts"
    ]


def _preparation_warnings(base: DualEncoder, checkpoint: Checkpoint) -> list[str]:
    stated, ours = checkpoint.statement.preparation, base.preprocessing.preparation
    theirs = checkpoint.statement.remark or (None if stated is None else stated.words())
    if theirs is None or stated == ours:
        return []
    return [
        f"its pictures were prepared with {theirs}, the registry's are with {ours.words()}: "
        "answers may differ"
    ]


def refuse_unrelated(base: DualEncoder, checkpoint: Checkpoint, distance: float) -> None:
    """Refuse what is too far from the base model to come from it; condu's note says that itself."""
    if checkpoint.metadata or distance <= MAX_DISTANCE:
        return
    raise BaseModelError(
        f"{checkpoint.path}: was not fine-tuned from base model {base.info.id}: the distance of "
        f"its weights is {distance:.2f} of the base model's norm (at most {MAX_DISTANCE} is "
        "plausible)",
        reason="checkpoint-of-other-base",
        path=checkpoint.path,
        base=base.info.id,
        distance=distance,
    )
