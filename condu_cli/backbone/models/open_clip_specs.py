"""What to build of open_clip: names checked, and what the weights need besides a model.

A pretrained tag says in open_clip's own table which activation and which preparation of pictures
its weights need. A local checkpoint may state both (`statements`); what it does not is assumed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condu_cli.backbone.statements import CONFIGURATION, Statement, statement_of
from condu_cli.backbone.weight_files import is_checkpoint
from condu_cli.base_identity import HUB_PREFIX, without_activation
from condu_cli.errors import UsageError
from condu_cli.preprocessing import Preparation

if TYPE_CHECKING:
    from collections.abc import Mapping

TINY_ARCHITECTURE = "condu-tiny"
TINY_CONFIG = Path(__file__).with_name(f"{TINY_ARCHITECTURE}.json")


@dataclass(frozen=True)
class OpenClipSpec:
    """What to build: an architecture, where its weights come from, and what these need."""

    architecture: str
    pretrained: str
    quick_gelu: bool
    preparation: Preparation | None = None
    """That of a local checkpoint; None if open_clip knows it."""
    assumed: str | None = None
    """On what grounds `preparation` was assumed; None if it is stated."""


def resolve(architecture: str, pretrained: str, recorded: Statement | None = None) -> OpenClipSpec:
    """Check the names of an architecture and its weights, and determine the activation.

    A pretrained tag says whether its weights were trained with QuickGELU, so the tag decides. For
    a local checkpoint, what a registry has `recorded` decides, else what the file or its folder
    states, else the architecture's name (`-quickgelu`).

    Raises:
        UsageError: unknown architecture or tag, or a `-quickgelu` name with plain-GELU weights.
        BaseModelError: what a local checkpoint states cannot be used.

    """
    import open_clip

    if architecture.startswith(HUB_PREFIX):
        if not pretrained:
            return OpenClipSpec(architecture, "", quick_gelu=False)
        stated = recorded or statement_of(Path(pretrained), openai_preparation())
        return OpenClipSpec(architecture, pretrained, False, stated.preparation)
    if architecture == TINY_ARCHITECTURE:
        open_clip.add_model_config(TINY_CONFIG)
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise UsageError(
            f"unknown base model '{architecture}'",
            reason="base-model-unknown",
            architecture=architecture,
        )
    named_quick = bool(config.get("quick_gelu", False))
    if pretrained == "":
        return OpenClipSpec(architecture, pretrained, named_quick)
    if is_checkpoint(pretrained):
        return local_checkpoint(architecture, config, pretrained, recorded)
    tag = open_clip.get_pretrained_cfg(architecture, pretrained)
    if not tag:
        known = open_clip.list_pretrained_tags_by_model(architecture)
        raise UsageError(
            f"'{pretrained}' is neither a checkpoint file nor pretrained weights of {architecture}",
            reason="weights-unknown",
            architecture=architecture,
            pretrained=pretrained,
            known=known,
        )
    tag_quick = bool(tag.get("quick_gelu", False))
    _refuse_plain_weights(architecture, pretrained, quick=tag_quick)
    return OpenClipSpec(architecture, pretrained, named_quick or tag_quick)


def local_checkpoint(
    architecture: str, config: Mapping[str, Any], path: str, recorded: Statement | None
) -> OpenClipSpec:
    """Settle activation and preparation of a local checkpoint: as stated, else as usual.

    `config`: open_clip's configuration of the architecture.
    """
    if recorded is not None:
        quick = recorded.activation == "quick_gelu"
        return OpenClipSpec(architecture, path, quick, recorded.preparation)
    stated = statement_of(Path(path), openai_preparation())
    if stated.embedding not in (None, config["embed_dim"]):
        raise UsageError(
            f"{Path(path).parent}: the configuration there is of a model with "
            f"{stated.embedding} features, but {architecture} has {config['embed_dim']}",
            reason="configuration-of-other-model",
            path=Path(path).with_name(CONFIGURATION),
            architecture=architecture,
        )
    quick = bool(config.get("quick_gelu", False))
    if stated.activation is not None:
        quick = stated.activation == "quick_gelu"
        _refuse_plain_weights(architecture, path, quick=quick)
    if stated.preparation is not None:
        return OpenClipSpec(architecture, path, quick, stated.preparation)
    preparation, grounds = usual_preparation(architecture)
    return OpenClipSpec(architecture, path, quick, preparation, grounds)


def _refuse_plain_weights(architecture: str, pretrained: str, *, quick: bool) -> None:
    if architecture.endswith("-quickgelu") and not quick:
        raise UsageError(
            f"{architecture} uses QuickGELU, but the weights '{pretrained}' do not",
            reason="weights-without-quickgelu",
            base=f"{without_activation(architecture)}:{pretrained}",
        )


def openai_preparation() -> Preparation:
    """Return OpenAI's, which open_clip takes unless something else is stated."""
    from open_clip.transform import PreprocessCfg

    return prepared_as(asdict(PreprocessCfg()))


def tag_preparation(architecture: str, pretrained: str) -> Preparation | None:
    """Return that of pretrained weights, None for an unknown tag; nothing is downloaded."""
    import open_clip

    tag = open_clip.get_pretrained_cfg(architecture, pretrained)
    if not tag:
        return None
    usual = openai_preparation().to_record()
    return prepared_as({name: tag.get(name) or usual[name] for name in usual})


def usual_preparation(architecture: str) -> tuple[Preparation, str]:
    """Return what to assume for weights of an architecture that state nothing, and the grounds.

    If all pretrained weights of the architecture need the same, that; else OpenAI's.
    """
    import open_clip

    bare = without_activation(architecture)
    by_tag = {
        tag: tag_preparation(name, tag)
        for name in (bare, f"{bare}-quickgelu")
        for tag in open_clip.list_pretrained_tags_by_model(name)
    }
    usual = openai_preparation()
    others = [tag for tag, preparation in by_tag.items() if preparation != usual]
    alike = set(by_tag.values())
    if len(alike) == 1 and (found := alike.pop()) is not None:
        return found, f"like all pretrained weights of {bare}"
    if not others:
        return usual, "like OpenAI's CLIP"
    return usual, f"like OpenAI's CLIP; {bare}'s weights {', '.join(others)} need another way"


def prepared_as(config: Mapping[str, Any]) -> Preparation:
    """Read open_clip's own description; ValueError for a way that condu does not know."""
    names = Preparation.__dataclass_fields__
    return Preparation(**{name: config[name] for name in names if name in config})
