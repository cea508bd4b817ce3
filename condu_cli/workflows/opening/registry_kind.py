"""Configuration and base model of a registry, existing or new."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from condu_cli.backbone.base_models import DEFAULT_BASE, canonical_base_id, load_base
from condu_cli.errors import UsageError
from condu_cli.workflows.opening.workspace import Workspace, new_config, trained_part

if TYPE_CHECKING:
    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.preprocessing import Preparation
    from condu_cli.registry.manifest import RegistryConfig
    from condu_cli.registry.repository import Registry


class RegistryKind(NamedTuple):
    """A registry's configuration, and the base model with the parameters that it trains."""

    base: DualEncoder
    config: RegistryConfig


def load_kind(
    registry: Registry | None,
    base_id: str | None,
    device: str,
    preparation: Preparation | None = None,
) -> RegistryKind:
    """Load the base model of a registry, or of a new one with default options.

    `base_id`: the base model of a new registry. `preparation`: how its pictures are prepared, if
    that would only be assumed.

    Raises:
        BaseModelError: the base model cannot be loaded or is not the registry's.

    """
    if registry is None:
        base = load_base(base_id or DEFAULT_BASE, device)
        if preparation is not None and base.assumption is not None:
            base = base.preparing(preparation)
        config = new_config(base)
        return RegistryKind(trained_part(base, config), config)
    return RegistryKind(Workspace(registry, device).base, registry.config)


def refuse_other_base(registry: Registry | None, base_id: str | None) -> None:
    """Refuse a base model that is not the registry's; no model is loaded.

    Raises:
        UsageError: it is a different one.

    """
    if registry is None or base_id is None:
        return
    recorded = registry.config.base.id
    if canonical_base_id(base_id) != recorded:
        raise UsageError(
            f"the registry at {registry.path} belongs to base model {recorded}, not {base_id}",
            reason="registry-of-other-kind",
            parameters=["base"],
            registry=registry.path,
            recorded=recorded,
            given=base_id,
        )
