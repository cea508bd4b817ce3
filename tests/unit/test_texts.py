"""Which text is taken in, and how any text is shown."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.texts import decoded, fault_in, visible

ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Every code point, surrogates included."""


@pytest.mark.parametrize("text", ["", "sea lake", "Straße", "naïve 🐈", "שלום", "a\u00a0b"])
def test_plain_text_has_no_fault_and_is_shown_as_it_is(text):
    assert fault_in(text) is None
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "fault", "shown"),
    [
        (os.fsdecode(b"caf\xe9"), "the byte \\xe9, which is not UTF-8", "caf\\xe9"),
        ("\ud800", "\\ud800, half of a surrogate pair", "\\ud800"),
        ("a\tb", "the control character \\t", "a\\tb"),
        ("a\nb", "the control character \\n", "a\\nb"),
        ("\x1b[2J", "the control character \\x1b", "\\x1b[2J"),
        ("\x9b2J", "the control character \\x9b", "\\x9b2J"),
        ("a\u2028b", "the line separator \\u2028", "a\\u2028b"),
        ("a\u2029b", "the paragraph separator \\u2029", "a\\u2029b"),
    ],
)
def test_the_first_fault_is_named_and_shown_escaped(text, fault, shown):
    assert fault_in(text) == fault
    assert visible(text) == shown


def test_a_change_of_direction_is_text_but_is_shown():
    assert fault_in("\u202egpj.exe") is None
    assert visible("\u202egpj.exe") == "\\u202egpj.exe"


@given(ANY_TEXT)
def test_what_is_shown_is_one_line_of_text(text):
    shown = visible(text)
    assert fault_in(shown) is None
    assert visible(shown) == shown
    assert len(shown.splitlines()) <= 1


@given(ANY_TEXT)
def test_text_without_a_fault_can_be_written_anywhere(text):
    if fault_in(text) is None:
        assert text.encode().decode() == text
        assert "\0" not in text
        assert len(text.splitlines()) <= 1


# Files of text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_files_may_be_in_what_windows_writes(encoding):
    assert decoded("naïve\n🐈".encode(encoding)) == "naïve\n🐈"


def test_another_encoding_is_named_by_its_first_byte():
    with pytest.raises(ValueError, match="it is not UTF-8: byte 3 is 0xe9"):
        decoded("café".encode("latin-1"))
    with pytest.raises(ValueError, match="it is not UTF-16"):
        decoded(b"\xff\xfe\x00")
