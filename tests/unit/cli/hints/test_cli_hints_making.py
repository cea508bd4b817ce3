"""A hint is made of an error's reason and facts, and of where the user's registry is."""

from pathlib import Path

import pytest

from condu_cli.cli.hints import making
from condu_cli.cli.hints.making import hint_for, hint_of, message_of
from condu_cli.errors import UsageError


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    hints = {
        "plain": "Do this",
        "command": "Run condu forget {task!q}{here}",
        "many": "Known: {known}",
        "chosen": lambda facts: "Take {one}" if facts.get("one") else "Take none",
    }
    monkeypatch.setattr(making, "HINTS", hints)
    monkeypatch.setattr(making, "RIDERS", {"kept": "{kept} is kept"})


def test_a_hint_without_facts_is_its_text() -> None:
    assert hint_of(UsageError("wrong", reason="plain")) == "Do this"


def test_a_reason_without_a_hint_has_none() -> None:
    assert hint_of(UsageError("wrong", reason="nowhere")) == ""


def test_a_command_to_copy_is_quoted_for_the_shell_and_repeats_the_registry() -> None:
    error = UsageError("wrong", reason="command", task="a b")
    assert hint_of(error) == "Run condu forget 'a b'"
    assert hint_of(error, Path("/x y")) == "Run condu forget 'a b' --registry '/x y'"


def test_a_fact_that_is_missing_is_written_in_capitals() -> None:
    assert hint_for("command", {}) == "Run condu forget TASK"


def test_lists_are_joined() -> None:
    assert hint_for("many", {"known": ["cars", "birds"]}) == "Known: cars, birds"


def test_a_function_chooses_by_the_facts() -> None:
    assert hint_for("chosen", {"one": "{x}"}) == "Take {x}"
    assert hint_for("chosen", {}) == "Take none"


def test_what_was_kept_is_said_after_the_hint_or_alone() -> None:
    error = UsageError("wrong", reason="plain")
    error.add(kept="the expert")
    assert hint_of(error) == "Do this; the expert is kept"
    assert hint_for("nowhere", {"kept": "the run"}) == "the run is kept"


@pytest.mark.parametrize(
    ("parameter", "option"), [("learning_rate", "--lr"), ("prototype_images", "--prototype-images")]
)
def test_the_message_begins_with_the_option_at_fault(parameter: str, option: str) -> None:
    error = UsageError("must be above 0", reason="plain", parameter=parameter)
    assert error.message == "must be above 0"
    assert message_of(error) == f"{option}: must be above 0"
