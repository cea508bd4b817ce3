"""What kind of registry `learn` works on: base model, method, trained parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from condu_cli.backbone.base_models import (
    DEFAULT_BASE,
    canonical_base_id,
    load_base,
    load_recorded_base,
)
from condu_cli.backbone.dual_encoder import TRAIN_CHOICES
from condu_cli.errors import UsageError
from condu_cli.workflows.opening.paradigms import FULL, LORA, LoraRequest, recorded_spec
from condu_cli.workflows.opening.workspace import Workspace, new_config, trained_part

if TYPE_CHECKING:
    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.registry.manifest import RegistryConfig
    from condu_cli.registry.repository import Registry


@dataclass(frozen=True)
class RegistryRequest:
    """What registry to create where there is none; None leaves a choice to the defaults.

    Where there is one, whatever is given must be what it is.
    """

    base: str | None = None
    method: str | None = None
    train: str | None = None
    lora: LoraRequest | None = None


class RegistryKind(NamedTuple):
    """A registry's configuration, and the base model with the parameters that it trains."""

    base: DualEncoder
    config: RegistryConfig


def load_kind(registry: Registry | None, wanted: RegistryRequest, device: str) -> RegistryKind:
    """Load the base model of a registry, or of the one that is to be created.

    Raises:
        BaseModelError: the base model cannot be had or is not the registry's.
        UsageError: the registry trains other parameters than asked for, or a value makes no sense.

    """
    if registry is None:
        base = load_base(wanted.base or DEFAULT_BASE, device)
        config = new_config(
            base, wanted.method or FULL, train=wanted.train or "whole", lora=wanted.lora
        )
        return RegistryKind(trained_part(base, config), config)
    base = Workspace(registry, device).base
    _refuse_other_parameters(registry, wanted, device)
    return RegistryKind(base, registry.config)


def refuse_other_kind(registry: Registry | None, wanted: RegistryRequest) -> None:
    """Refuse a base model or method that is not the registry's; no model is loaded.

    Raises:
        UsageError: it is another.

    """
    if registry is None:
        return
    config = registry.config
    if wanted.base is not None and canonical_base_id(wanted.base) != config.base.id:
        raise _other(registry, "base model", config.base.id, wanted.base, "base")
    if wanted.method is not None and wanted.method != config.method:
        raise _other(registry, "method", config.method, wanted.method, "method")


def _other(registry: Registry, what: str, recorded: str, given: str, parameter: str) -> UsageError:
    return UsageError(
        f"the registry at {registry.path} belongs to {what} {recorded}, not {given}",
        reason="registry-of-other-kind",
        parameters=[parameter],
        registry=registry.path,
        recorded=recorded,
        given=given,
    )


def _refuse_other_parameters(registry: Registry, wanted: RegistryRequest, device: str) -> None:
    """Refuse a tower or LoRA's options that are not the registry's."""
    if wanted.train is None and wanted.lora is None:
        return
    towers = TRAIN_CHOICES if wanted.train is None else (wanted.train,)
    if not any(_would_be(registry.config, wanted, train, device) for train in towers):
        raise UsageError(
            f"the registry at {registry.path} trains other parameters than you ask for",
            reason="registry-trains-others",
            registry=registry.path,
        )


def _would_be(config: RegistryConfig, wanted: RegistryRequest, train: str, device: str) -> bool:
    """Whether what is asked for, and for the rest what is recorded, gives this configuration."""
    lora = None
    if config.method == LORA:
        asked_for = wanted.lora or LoraRequest()
        lora = asked_for.completed(recorded_spec(config.method_options))
    base = load_recorded_base(config.base.id, device)
    try:
        asked = new_config(base, config.method, train=train, lora=lora)
    except UsageError:  # the tower has no such layers
        return False
    return (asked.parameters, asked.method_options) == (config.parameters, config.method_options)
