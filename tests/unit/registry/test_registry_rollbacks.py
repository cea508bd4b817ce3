import pytest

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import UsageError
from condu_cli.registry.manifest import Operation
from condu_cli.registry.rollbacks import ROLLBACK, UNDO, Aim, rollback_to_undo, steps_back


def journal(*kinds: str) -> list[Operation]:
    """Return the journal of these operations, newest first; they are given oldest first."""
    numbered = enumerate(kinds, start=1)
    return [Operation(n, "", kind, None, None, kind) for n, kind in numbered][::-1]


@pytest.mark.parametrize(
    ("kinds", "undone"),
    [
        (["learn", "rollback"], 2),
        (["learn", "rollback", "rollback"], 3),
        (["learn", "rollback", "rollback", "undo-rollback"], 2),
        (["learn", "rollback", "undo-rollback", "rollback"], 4),
        (["learn", "rollback", "rollback", "undo-rollback", "rollback", "undo-rollback"], 2),
        (["learn", "rollback", "learn", "rollback"], 4),
    ],
)
def test_the_latest_rollback_not_yet_undone_is_undone(kinds: list[str], undone: int) -> None:
    assert rollback_to_undo(journal(*kinds)).id == undone


@pytest.mark.parametrize(
    "kinds",
    [
        [],
        ["init"],
        ["init", "learn"],
        ["learn", "rollback", "undo-rollback"],
        ["learn", "rollback", "learn"],
        ["learn", "rollback", "forget"],
        ["learn", "rollback", "import", "rollback", "undo-rollback"],
    ],
)
def test_otherwise_the_hint_is_to_name_a_session(kinds: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        rollback_to_undo(journal(*kinds))
    assert "condu rollback SESSION" in hint_of(refused.value)


@pytest.mark.parametrize(("steps", "found"), [(1, "b"), (2, "a"), (3, None)])
def test_steps_are_counted_from_head_to_the_empty_state(steps: int, found: str | None) -> None:
    assert steps_back(steps, ["c", "b", "a"]) == found


@pytest.mark.parametrize(("steps", "said"), [(0, "cannot go back 0"), (4, "HEAD has 3 sessions")])
def test_a_rollback_goes_no_further_than_to_the_empty_state(steps: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        steps_back(steps, ["c", "b", "a"])


def test_an_aim_has_the_name_that_the_journal_uses() -> None:
    assert (Aim().kind, Aim("pets").kind, Aim(undo=True).kind) == (ROLLBACK, ROLLBACK, UNDO)
