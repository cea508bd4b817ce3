import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import NotFoundError, UsageError
from condu_cli.registry.revisions import match_start, parse_revision, validate_new_tag

HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


@pytest.mark.parametrize(
    ("text", "start", "steps"),
    [
        ("@", "@", 0),
        ("HEAD", "HEAD", 0),
        ("@~0", "@", 0),
        ("@~1", "@", 1),
        ("HEAD~12", "HEAD", 12),
        ("abcd~3", "abcd", 3),
        ("before-cleanup~1", "before-cleanup", 1),
        ("@~999999999", "@", 999_999_999),
    ],
)
def test_a_text_is_a_start_and_the_steps_before_it(text: str, start: str, steps: int) -> None:
    revision = parse_revision(text)
    assert (revision.start, revision.steps) == (start, steps)
    assert revision.from_head == (start in ("@", "HEAD"))


@pytest.mark.parametrize(
    "text", ["", "~", "~1", "@~", "@~-1", "@~x", "@~1 ", "@~1~1", "@~" + "9" * 10]
)
def test_anything_else_is_not_a_revision_and_the_error_says_what_is(text: str) -> None:
    with pytest.raises(NotFoundError, match="does not name a session") as refused:
        parse_revision(text)
    assert "@~N" in hint_of(refused.value)
    assert "a tag" in hint_of(refused.value)


@given(HEX, st.integers(0, 999_999_999))
def test_an_id_with_steps_is_taken_apart_as_it_was_put_together(session: str, steps: int) -> None:
    assert parse_revision(f"{session}~{steps}") == (session, steps)
    assert not parse_revision(session).from_head


@given(st.lists(HEX, min_size=1, max_size=8, unique=True), st.data())
def test_a_prefix_names_the_only_session_that_begins_with_it(
    ids: list[str], data: st.DataObject
) -> None:
    wanted = data.draw(st.sampled_from(ids))
    prefix = wanted[: data.draw(st.integers(4, 64))]
    same = [session_id for session_id in ids if session_id.startswith(prefix)]
    if len(same) == 1:
        assert match_start(prefix, ids, {}) == wanted
        assert match_start(prefix.upper(), ids, {}) == wanted
    else:
        with pytest.raises(NotFoundError):
            match_start(prefix, ids, {})


def test_a_tag_names_its_session() -> None:
    ids = ["a" * 64, "b" * 64]
    assert match_start("best", ids, {"best": "b" * 64, "worst": "a" * 64}) == "b" * 64


def test_the_case_of_a_tag_matters_and_that_of_an_id_does_not() -> None:
    with pytest.raises(NotFoundError):
        match_start("Best", ["a" * 64], {"best": "a" * 64})
    assert match_start("AAAA", ["a" * 64], {"best": "a" * 64}) == "a" * 64


def test_an_ambiguous_prefix_lists_the_candidates() -> None:
    ids = ["abcd" + "1" * 60, "abcd" + "2" * 60, "f" * 64]
    with pytest.raises(
        NotFoundError, match="names 2 sessions: abcd11111111, abcd22222222"
    ) as raised:
        match_start("abcd", ids, {})
    assert "more digits" in hint_of(raised.value)


@pytest.mark.parametrize("text", ["", "abc", "xyzw", "a" * 65, "../etc", "abcd%"])
def test_a_text_that_cannot_be_an_id_says_what_can(text: str) -> None:
    with pytest.raises(NotFoundError, match="does not name a session") as raised:
        match_start(text, ["a" * 64], {})
    assert "at least 4 digits" in hint_of(raised.value)


def test_a_mistyped_tag_lists_the_existing_tags() -> None:
    with pytest.raises(NotFoundError) as raised:
        match_start("bset", ["a" * 64], {"worst": "a" * 64, "best": "a" * 64})
    assert "a tag (best, worst)" in hint_of(raised.value)


def test_an_unknown_id_hints_at_the_log() -> None:
    with pytest.raises(NotFoundError, match="there is no session 'abcd'") as raised:
        match_start("abcd", ["f" * 64], {})
    assert "condu log" in hint_of(raised.value)
    assert raised.value.exit_code == 4


@pytest.mark.parametrize("name", ["v1", "before-cleanup", "Best_2.0", "abc", "face-1", "head"])
def test_a_tag_may_be_called(name: str) -> None:
    assert validate_new_tag(name) == name


@pytest.mark.parametrize("name", ["HEAD", "abcd", "ABCD", "0" * 64, "deadbeef"])
def test_a_tag_never_reads_like_head_or_like_an_id(name: str) -> None:
    with pytest.raises(UsageError, match="HEAD or a session's id"):
        validate_new_tag(name)


@pytest.mark.parametrize("name", ["", "@", "a~1", "-x", "a/b", "a b", "x" * 65, "ä", "a\n"])
def test_a_tag_is_made_of_the_letters_of_a_task_name(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a tag"):
        validate_new_tag(name)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), HEX)
def test_whatever_may_be_a_tag_names_its_session_and_no_other(name: str, session: str) -> None:
    try:
        validate_new_tag(name)
    except UsageError:
        return
    assert parse_revision(name) == (name, 0)
    assert match_start(name, ["0" * 64], {name: session}) == session
    with pytest.raises(NotFoundError, match="does not name a session"):
        match_start(name, [name.ljust(64, "0")], {})
