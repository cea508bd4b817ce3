import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.errors import NotFoundError
from condu_cli.registry.revisions import match_prefix, steps_before_head

HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


@pytest.mark.parametrize(
    ("text", "steps"), [("@", 0), ("HEAD", 0), ("@~0", 0), ("@~1", 1), ("HEAD~12", 12)]
)
def test_places_before_head(text: str, steps: int) -> None:
    assert steps_before_head(text) == steps


@pytest.mark.parametrize("text", ["", "head", "@~", "@~-1", "@1", "HEAD^", "@~x", "@~1 ", "@~٣x"])
def test_anything_else_is_not_a_place(text: str) -> None:
    assert steps_before_head(text) is None


@given(st.lists(HEX, min_size=1, max_size=8, unique=True), st.data())
def test_a_prefix_names_the_only_session_that_begins_with_it(
    ids: list[str], data: st.DataObject
) -> None:
    wanted = data.draw(st.sampled_from(ids))
    prefix = wanted[: data.draw(st.integers(4, 64))]
    same = [session_id for session_id in ids if session_id.startswith(prefix)]
    if len(same) == 1:
        assert match_prefix(prefix, ids) == wanted
        assert match_prefix(prefix.upper(), ids) == wanted
    else:
        with pytest.raises(NotFoundError):
            match_prefix(prefix, ids)


def test_an_ambiguous_prefix_lists_the_candidates() -> None:
    ids = ["abcd" + "1" * 60, "abcd" + "2" * 60, "f" * 64]
    with pytest.raises(
        NotFoundError, match="names 2 sessions: abcd11111111, abcd22222222"
    ) as raised:
        match_prefix("abcd", ids)
    assert "more digits" in raised.value.hint


@pytest.mark.parametrize("text", ["", "abc", "xyzw", "a" * 65, "../etc", "abcd%"])
def test_a_text_that_cannot_be_an_id_says_what_can(text: str) -> None:
    with pytest.raises(NotFoundError, match="does not name a session") as raised:
        match_prefix(text, ["a" * 64])
    assert "at least 4 digits" in raised.value.hint


def test_an_unknown_id_hints_at_the_log() -> None:
    with pytest.raises(NotFoundError, match="there is no session 'abcd'") as raised:
        match_prefix("abcd", ["f" * 64])
    assert "condu log" in raised.value.hint
    assert raised.value.exit_code == 4
