import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import IntegrityError, UsageError
from condu_cli.registry.names import is_sha256, shown_id, validate_sha256, validate_task_name


@pytest.mark.parametrize(
    "name", ["a", "DTD", "oxford_pets", "v1.2-final", "0", "x" * 64, "tiny_imagenet_32"]
)
def test_a_plain_name_is_returned_unchanged(name: str) -> None:
    assert validate_task_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "x" * 65, "-task", "@", "@~1", ".hidden", "..", "a/b", "a\\b", "a b", "a\n", "é", "a:b"],
)
def test_any_other_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        validate_task_name(name)
    assert "64" in hint_of(refused.value)
    assert repr(name) in refused.value.message


@given(st.text(max_size=80))
def test_an_accepted_name_is_one_harmless_path_component(text: str) -> None:
    try:
        name = validate_task_name(text)
    except UsageError:
        return
    assert name == text
    assert 1 <= len(name) <= 64
    assert name[0] not in "@-."
    assert not set(name) & set("/\\: \0\n")


def test_a_sha256_is_64_lower_case_hex_digits() -> None:
    assert is_sha256("0123456789abcdef" * 4)
    assert validate_sha256("a" * 64) == "a" * 64


@pytest.mark.parametrize("text", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "../" + "a" * 61])
def test_anything_else_is_not_a_sha256(text: str) -> None:
    assert not is_sha256(text)
    with pytest.raises(IntegrityError, match="not the name of a blob"):
        validate_sha256(text)


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "é", "A" * 64, b"\xff", None, "x" * 999])
def test_an_invalid_id_is_shown_without_affecting_the_terminal(text: object) -> None:
    assert shown_id(text).isprintable()
    assert shown_id(text).isascii()
    assert len(shown_id(text)) <= 80
    assert shown_id("a" * 64) == "a" * 64
