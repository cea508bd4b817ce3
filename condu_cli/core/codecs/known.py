"""The available codecs, by the name that a registry records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.core.codecs.condu.codec import ConduCodec
from condu_cli.core.codecs.interface import UnknownCodecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condu_cli.core.arrays.layout import ParameterLayout
    from condu_cli.core.codecs.interface import Codec, CodecFactory

DEFAULT_CODEC = ConduCodec.name
"""The codec of a new registry unless another is chosen."""

CODECS: dict[str, CodecFactory] = {ConduCodec.name: ConduCodec}
"""All known codecs; add a new one here."""


PAPER_OPTIONS: Mapping[str, str] = {"rescaler": "global", "exact": "", "trim": "0"}
"""The options of `condu` that are the paper's; one task is restored bit for bit."""


def codec_by_name(name: str, layout: ParameterLayout, options: Mapping[str, str]) -> Codec:
    """Return the codec that a record names, with its options.

    An option that the record lacks means what it meant when the record was written. Raises
    UnknownCodecError for an unknown name or option.
    """
    return _factory(name)(layout, options)


def new_options(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return every option that a new registry records: those given, and defaults.

    Raises UnknownCodecError for an unknown name; options are checked when the codec is built.
    """
    return {**_factory(name).defaults, **given}


def _factory(name: str) -> CodecFactory:
    if name not in CODECS:
        raise UnknownCodecError(f"unknown codec {name!r}; known: {', '.join(sorted(CODECS))}")
    return CODECS[name]
