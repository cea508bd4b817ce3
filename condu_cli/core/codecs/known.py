"""The codecs that there are, by the name that a registry keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.core.codecs.condu.codec import ConduCodec
from condu_cli.core.codecs.interface import UnknownCodecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condu_cli.core.arrays.layout import ParameterLayout
    from condu_cli.core.codecs.interface import Codec, CodecFactory

DEFAULT_CODEC = ConduCodec.name
"""What a new registry gets where nothing else is asked for."""

CODECS: dict[str, CodecFactory] = {ConduCodec.name: ConduCodec}
"""Every codec that can be named; another one is added by putting it here."""


def codec_by_name(name: str, layout: ParameterLayout, options: Mapping[str, str]) -> Codec:
    """The codec of a record that names it with its options.

    An option that the record lacks means what it meant when the record was written. Raises
    UnknownCodecError for a name or option unknown.
    """
    return _factory(name)(layout, options)


def new_options(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """Every option that a new registry is to record, today's defaults beside what is given.

    Raises UnknownCodecError for a name unknown; options are checked when the codec is built.
    """
    return {**_factory(name).defaults, **given}


def _factory(name: str) -> CodecFactory:
    if name not in CODECS:
        raise UnknownCodecError(f"unknown codec {name!r}; known: {', '.join(sorted(CODECS))}")
    return CODECS[name]
