"""Names of base models, and the loader for them.

mini                                 embedded, the default
tiny                                 random weights; for tests of condu itself
ViT-B-16:openai                      open_clip architecture and pretrained tag
ViT-B-16:/path/weights.safetensors   open_clip architecture and local checkpoint
hf-hub:org/repository                open_clip model on the Hugging Face hub
hf-hub:org/repository:/path/weights  its architecture and a local checkpoint
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condu_cli.backbone.allocator import keep_freed_memory
from condu_cli.backbone.statements import Statement
from condu_cli.backbone.weight_files import is_checkpoint
from condu_cli.base_identity import HUB_PREFIX, parts_of
from condu_cli.errors import BaseModelError, UsageError
from condu_cli.preprocessing import Preparation
from condu_cli.texts import complaint, visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.base_identity import BaseIdentity

DEFAULT_BASE = "mini"
BASE_VARIABLE = "CONDU_BASE"
"""Environment variable: another location of the same weights (their hash must match)."""


@dataclass(frozen=True)
class CatalogEntry:
    """One line of `condu bases`."""

    id: str
    description: str
    parameters_millions: float
    needs_network: bool


CATALOG = (
    CatalogEntry("mini", "EfficientNet-lite0 + MiniLM, embedded (ImageNet, not CLIP)", 27.2, False),
    CatalogEntry("ViT-B-16:openai", "CLIP ViT-B/16, the paper's base model", 149.6, True),
    CatalogEntry("ViT-B-32:openai", "CLIP ViT-B/32, four times faster", 151.3, True),
    CatalogEntry("ViT-B-32:laion2b_s34b_b79k", "OpenCLIP ViT-B/32 on LAION-2B", 151.3, True),
    CatalogEntry("ViT-L-14:openai", "CLIP ViT-L/14", 427.6, True),
)


@lru_cache(maxsize=1)
def load_base(base_id: str, device: str = "cpu", recorded: Statement | None = None) -> DualEncoder:
    """Load a base model by name onto a device.

    The last one is cached: a base model is never changed, experts are copies. For a CPU, this
    process's malloc keeps freed memory from now on. `recorded`: what a registry says of a local
    checkpoint; then nothing else is asked.

    Raises:
        UsageError: the name is not valid.
        BaseModelError: the weights cannot be loaded, or have the wrong hash.

    """
    if odd := complaint("the base model's name", base_id):
        raise BaseModelError(odd, reason="base-name-odd", base=visible(base_id))
    if device == "cpu":
        keep_freed_memory()
    try:
        model = _load(base_id, recorded)
    except ImportError as exc:
        raise BaseModelError(
            f"base model '{base_id}' needs a library that cannot be imported: {exc}",
            reason="library-broken",
            base=base_id,
        ) from exc
    return model.to(device)


def prepared_by_hand(base: DualEncoder, given: Mapping[str, Any]) -> DualEncoder:
    """Return a base model with values of its `Preparation` that the user gives, by name.

    Raises:
        UsageError: a value is not valid, or the weights are not a local checkpoint.

    """
    if not given:
        return base
    if not is_checkpoint(base.info.pretrained):
        raise UsageError(
            f"base model {base.info.id} has its own way of preparing pictures: "
            f"{base.preprocessing.preparation.words()}",
            reason="preparation-known",
            base=base.info.id,
        )
    try:
        prepared = base.preparing(replace(base.preprocessing.preparation, **given))
    except ValueError as exc:
        raise UsageError(f"pictures: {exc}", reason="preparation-invalid") from exc
    others = [name for name in Preparation.__dataclass_fields__ if name not in given]
    if others and base.assumed_preparation is not None:
        prepared.assumed_preparation = f"{', '.join(others)}: {base.assumed_preparation}"
    return prepared


def load_recorded_base(recorded: BaseIdentity, device: str = "cpu") -> DualEncoder:
    """Load the base model that a registry records, from `CONDU_BASE` if that is set.

    Its pictures are prepared as they were when the registry's experts were trained, whatever the
    weights' source says today: to other pictures the same weights answer differently.
    """
    preparation = recorded.preparation or _preparation_before(recorded)
    name = os.environ.get(BASE_VARIABLE) or recorded.id
    if is_checkpoint(parts_of(name)[2]):
        base = load_base(name, device, Statement(recorded.activation, preparation))
    else:  # the same model as before there was a registry
        base = load_base(name, device)
    return base if preparation is None else base.preparing(preparation)


def _preparation_before(recorded: BaseIdentity) -> Preparation | None:
    """Return how condu prepared pictures when registries did not record it; None: as today.

    Pretrained weights had their own way, all local checkpoints had OpenAI's.
    """
    if recorded.id in ("mini", "tiny") or recorded.id.startswith(HUB_PREFIX):
        return None
    from condu_cli.backbone.models.open_clip_specs import openai_preparation, tag_preparation

    if is_checkpoint(recorded.pretrained):
        return openai_preparation()
    return tag_preparation(recorded.architecture, recorded.pretrained)


def _load(base_id: str, recorded: Statement | None = None) -> DualEncoder:
    if base_id == "mini":
        from condu_cli.backbone.models.mini import Mini

        return Mini()
    from condu_cli.backbone.models import open_clip_models, open_clip_specs

    base_id = canonical_base_id(base_id)
    architecture, pretrained = split_base_id(base_id)
    spec = open_clip_specs.resolve(architecture, pretrained, recorded)
    return open_clip_models.load(base_id, spec)


def canonical_base_id(base_id: str) -> str:
    """Return the name for a registry: a checkpoint by its absolute path.

    A registry is used from other folders than the one it was created in.
    """
    architecture, _, pretrained = parts_of(base_id)
    if not is_checkpoint(pretrained):
        return base_id
    return f"{architecture}:{Path(pretrained).expanduser().resolve()}"


def split_base_id(base_id: str) -> tuple[str, str]:
    """Split `ARCHITECTURE:WEIGHTS`; a hub name is an architecture that needs no weights.

    Raises:
        UsageError: there is no colon, a side of it is empty, or a hub name has a tag.

    """
    if base_id == "tiny":
        return "condu-tiny", ""
    architecture, colon, pretrained = parts_of(base_id)
    on_hub = architecture.startswith(HUB_PREFIX)
    if on_hub and not colon:
        return architecture, ""
    if not (architecture and pretrained) or (on_hub and not is_checkpoint(pretrained)):
        raise UsageError(
            f"'{base_id}' is not the name of a base model", reason="not-a-base-model", base=base_id
        )
    return architecture, pretrained
