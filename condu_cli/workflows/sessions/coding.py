"""The codec of a session's experts, built once and cached."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

from condu_cli.core.arrays.layout import ParameterLayout
from condu_cli.core.codecs.interface import Patching, UnknownCodecError
from condu_cli.core.codecs.known import codec_by_name
from condu_cli.core.codecs.operations import same_code
from condu_cli.errors import IntegrityError
from condu_cli.registry.manifest import CodecChoice, canonical_json

if TYPE_CHECKING:
    from condu_cli.core.codecs.interface import Codec
    from condu_cli.registry.manifest import ParameterShape, RegistryConfig, Session


def codec_for(config: RegistryConfig, session: Session | None = None) -> Codec:
    """Return the codec of a session's experts; without a session, of a registry's first one.

    Sessions derived from it, by learning or forgetting, keep its codec.

    Raises:
        IntegrityError: this program does not know the codec or one of its options.

    """
    choice = config.codec if session is None or session.codec is None else session.codec
    try:
        return _built(choice.name, canonical_json(choice.options), config.parameters)
    except (UnknownCodecError, ValueError) as exc:
        raise IntegrityError(
            f"the registry's codec cannot be used: {exc}", reason="needs-newer-condu"
        ) from exc


def layout_of(config: RegistryConfig) -> ParameterLayout:
    """Return the registry's fixed parameter order, as the method sees it."""
    return _layout(config.parameters)


def choice_of(config: RegistryConfig, codec: Codec) -> CodecChoice | None:
    """Return what a session in this codec must record; None if it is the registry's codec."""
    if same_code(codec, codec_for(config)):
        return None
    return CodecChoice(codec.name, codec.options)


def patching(codec: Codec) -> Patching:
    """Return the codec as one that reads patches.

    Raises:
        IntegrityError: it has no patches, so no session can be stored as one.

    """
    if not isinstance(codec, Patching):
        raise IntegrityError(
            f"a session is stored as a patch, which codec {codec.name!r} does not support",
            reason="record-altered",
        )
    return codec


@lru_cache(maxsize=4)
def _layout(parameters: tuple[ParameterShape, ...]) -> ParameterLayout:
    return ParameterLayout(tuple(p.name for p in parameters), tuple(p.shape for p in parameters))


@lru_cache(maxsize=8)
def _built(name: str, options: str, parameters: tuple[ParameterShape, ...]) -> Codec:
    """Build a codec; codecs are stateless, so it can be shared."""
    return codec_by_name(name, _layout(parameters), json.loads(options))
