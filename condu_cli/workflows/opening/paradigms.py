"""The two ways to fine-tune an expert: all weights of the model, or LoRA factors.

A registry's paradigm is chosen when it is created and never changes: deltas of weights and deltas
of factors cannot be unified with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from condu_cli.backbone.lora.spec import INITIAL, METHOD, LoraSpec
from condu_cli.errors import BaseModelError, IntegrityError, UsageError
from condu_cli.registry.manifest import MODEL_PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.registry.manifest import RegistryConfig

FULL, LORA = "full", METHOD
METHODS = (FULL, LORA)


@dataclass(frozen=True)
class LoraRequest:
    """The user's options for a LoRA registry; None, () and False mean the default.

    `alpha` defaults to the rank, so that B @ A is added unscaled. `targets` are glob patterns for
    names of layers.
    """

    rank: int | None = None
    alpha: float | None = None
    targets: tuple[str, ...] = ()
    freeze_a: bool = False
    seed: int | None = None


class MethodSummary(NamedTuple):
    """A registry's paradigm, for display and JSON; without LoRA only the first two are set.

    `parameters` counts the trainable parameters.
    """

    method: str
    parameters: int
    rank: int | None = None
    alpha: float | None = None
    freeze_a: bool | None = None
    layers: int | None = None


def lora_options(
    method: str,
    *,
    rank: int | None = None,
    alpha: float | None = None,
    targets: Sequence[str] = (),
    freeze_a: bool = False,
    seed: int | None = None,
) -> LoraRequest | None:
    """Return LoRA's options for `new_config`, None if the method is not LoRA.

    Raises:
        UsageError: a LoRA option with another method.

    """
    given = {
        "rank": rank is not None,
        "alpha": alpha is not None,
        "lora_targets": bool(targets),
        "freeze_a": freeze_a,
        "lora_seed": seed is not None,
    }
    if method == LORA:
        return LoraRequest(rank, alpha, tuple(targets), freeze_a, seed)
    named = [option for option, there in given.items() if there]
    if named:
        raise UsageError(
            f"{named[0]} is a LoRA option, but the method is {method}",
            reason="lora-options-without-lora",
            parameter=named[0],
            parameters=named,
            method=method,
        )
    return None


def adapted(base: DualEncoder, request: LoraRequest, train: str) -> DualEncoder:
    """Return the base model with the requested LoRA factors.

    Raises:
        UsageError: a value out of range, or a pattern that matches no layer.

    """
    rank = base.lora_defaults.rank if request.rank is None else request.rank
    alpha = request.alpha
    if alpha is None:
        alpha = base.lora_defaults.alpha if request.rank is None else float(rank)
    targets = base.lora_targets(train, request.targets)
    try:
        spec = LoraSpec(rank, float(alpha), targets, request.freeze_a, request.seed or 0)
    except ValueError as exc:
        raise UsageError(f"LoRA: {exc}", reason="lora-option-out-of-range") from exc
    return base.with_lora(spec)


def lora_record(base: DualEncoder, model: DualEncoder, train: str) -> dict[str, Any]:
    """Return what a registry records about the LoRA model that `adapted` returned.

    That is the layers by name, so that no later default of condu or a library changes them; the
    hash of the initial A factors, to check that all experts start from the same; and the number of
    parameters that full fine-tuning would train, for comparing sizes.
    """
    factors = model.factors
    assert factors is not None  # noqa: S101 - `adapted` made it
    weights = base.model_parameters()
    count = sum(weights[name].numel() for name in base.tower_parameters(train))
    return {
        **factors.spec.to_record(),
        INITIAL: factors.initial_sha256(),
        MODEL_PARAMETERS: count,
    }


def recorded_spec(options: Mapping[str, Any]) -> LoraSpec:
    """Parse a record from `lora_record`.

    Raises:
        IntegrityError: the record is not valid.

    """
    try:
        return LoraSpec.from_record(options)
    except ValueError as exc:
        raise IntegrityError(
            f"the registry's LoRA options cannot be used: {exc}", reason="needs-newer-condu"
        ) from exc


def adapted_as_recorded(base: DualEncoder, options: Mapping[str, Any]) -> DualEncoder:
    """Return the base model with a registry's LoRA factors at their shared initialisation.

    Raises:
        BaseModelError: a layer is missing, or the initialisation differs from the record.
        IntegrityError: the record is not valid.

    """
    model = base.with_lora(recorded_spec(options))
    assert model.factors is not None  # noqa: S101 - just made
    if model.factors.initial_sha256() != options.get(INITIAL):
        raise BaseModelError(
            "the initialisation of this registry's LoRA factors differs from its record",
            reason="lora-initialisation-differs",
        )
    return model


def summary_of(config: RegistryConfig) -> MethodSummary:
    """Summarise a registry's paradigm without loading a model."""
    plain = MethodSummary(config.method, config.parameter_count)
    if config.method != LORA:
        return plain
    spec = recorded_spec(config.method_options)
    return plain._replace(
        rank=spec.rank, alpha=spec.alpha, freeze_a=spec.freeze_a, layers=len(spec.targets)
    )
