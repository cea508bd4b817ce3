"""Codecs by name: which are known, and what their default options mean."""

import pytest

from condu_cli.core.arrays.layout import ParameterLayout
from condu_cli.core.codecs.interface import UnknownCodecError
from condu_cli.core.codecs.known import CODECS, codec_by_name, new_options

LAYOUT = ParameterLayout(("a", "b"), ((9, 11), (7,)))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UnknownCodecError, match="unknown codec 'zip'; known: condu"):
        codec_by_name("zip", LAYOUT, {})
    with pytest.raises(UnknownCodecError, match="unknown codec 'zip'; known: condu"):
        new_options("zip", {})


@pytest.mark.parametrize("name", CODECS)
def test_every_option_is_named_in_a_new_registry(name):
    options = new_options(name, {})
    assert codec_by_name(name, LAYOUT, options).options == options
    assert options.keys() == codec_by_name(name, LAYOUT, {}).options.keys()
    assert new_options("condu", {"dtype": "int8"}) == {
        "dtype": "int8",
        "rescaler": "row",
        "exact": "vectors,depthwise",
        "trim": "0.5",
    }
