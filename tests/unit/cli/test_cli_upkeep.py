"""`gc` and `verify`: the question before anything is removed, and reports of corruption."""

import io
import json
import sys

import pytest
from made_registries import files_of, flip, learn, made_registry

from condu_cli.registry.repository import Registry


@pytest.fixture
def registry(tmp_path) -> Registry:
    return made_registry(tmp_path / "registry", "birds", "cars", "digits")


def document(ran, code=0):
    assert ran.code == code, ran.err
    (line,) = ran.out.splitlines()
    return json.loads(line)


@pytest.fixture
def typing(monkeypatch):
    """A user at a terminal who types this."""

    def answers(text: str) -> None:
        terminal = io.StringIO(text)
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", terminal)

    return answers


# gc


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_without_a_terminal_nothing_is_removed(condu, registry, options, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    before = files_of(registry.path)
    ran = condu("gc", "--keep", "1", *options)
    assert (ran.code, ran.out) == (2, "")
    assert "--yes" in ran.err
    assert "--dry-run" in ran.err
    assert files_of(registry.path) == before
    assert registry.history().collected == {}


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "maybe\n"])
def test_without_a_yes_nothing_is_removed(condu, registry, typing, answer):
    typing(answer)
    before = files_of(registry.path)
    ran = condu("gc", "--keep", "1")
    assert ran.code == 0
    assert "Sessions to remove" in ran.out
    assert "Remove 2 sessions for good? [y/N]" in ran.err
    assert "Nothing was removed." in ran.err
    assert files_of(registry.path) == before


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_with_a_yes_the_sessions_go(condu, registry, typing, answer):
    typing(answer)
    ran = condu("gc", "--keep", "1")
    assert ran.code == 0
    assert "Removed 2 sessions and " in ran.out
    assert len(registry.history().live) == 1


def test_only_the_sessions_that_were_shown_go(condu, registry, typing, monkeypatch):
    """Another one has become unneeded by the time the user says yes."""
    third, second, first = registry.sessions()
    typing("y\n")
    answer = sys.stdin.readline

    def committed_meanwhile():
        learn(registry, "flags")
        return answer()

    monkeypatch.setattr(sys.stdin, "readline", committed_meanwhile, raising=False)
    ran = condu("gc", "--keep", "2")
    assert ran.code == 0, ran.err
    assert first.id[:12] in ran.out
    assert second.id[:12] not in ran.out
    assert [session.id for session in registry.history().live[1:]] == [third.id, second.id]


def test_yes_answers_the_question_before_it_is_asked(condu, registry):
    ran = condu("gc", "--keep", "1", "--yes")
    assert ran.code == 0
    assert "[y/N]" not in ran.err
    assert len(registry.history().live) == 1


@pytest.mark.parametrize("option", ["-n", "--dry-run"])
def test_a_dry_run_lists_what_would_be_removed_and_removes_nothing(condu, registry, option):
    before = files_of(registry.path)
    ran = condu("gc", "--keep", "1", option)
    assert ran.code == 0
    for session in registry.sessions()[1:]:
        assert session.id[:12] in ran.out
    record = document(condu("gc", "--keep", "1", option, "--json"))
    assert record["dry_run"] is True
    assert record["sessions"] == [s.id for s in registry.sessions()[1:]]
    assert files_of(registry.path) == before


def test_without_sessions_to_remove_there_is_no_question(condu, registry):
    ran = condu("gc")
    assert ran.code == 0
    assert "Removed 0 sessions and 0 files" in ran.out


def test_what_an_undo_could_bring_back_is_named_and_removed_on_request(condu, registry):
    condu("rollback")
    ran = condu("gc")
    assert "condu rollback --undo can still restore 1 session" in ran.err
    assert len(registry.history().live) == 3
    assert condu("gc", "--no-undo", "--yes").code == 0
    assert len(registry.history().live) == 2
    assert condu("rollback", "--undo").code == 4


def test_a_removed_session_says_what_happened_to_it(condu, registry):
    condu("gc", "--keep", "1", "--yes")
    old = registry.sessions()[-1].id
    for args in (["rollback", old[:12]], ["diff", old[:12], "@"], ["tag", "x", old[:12]]):
        ran = condu(*args)
        assert ran.code == 4
        assert "removed by garbage collection" in ran.err


def test_keep_is_at_least_one(condu, registry):
    assert condu("gc", "--keep", "0", "--yes").code == 2
    assert len(registry.history().live) == 3


# verify


@pytest.mark.parametrize(("options", "how"), [([], "read and compared"), (["--quick"], "checked")])
def test_an_intact_registry_has_no_problems(condu, registry, options, how):
    ran = condu("verify", *options)
    assert ran.code == 0
    assert ran.out.startswith("No problems found: 3 sessions, ")
    assert how in ran.out
    assert document(condu("verify", *options, "--json"))["sound"] is True


def test_corruption_ends_with_14_and_names_the_blob_its_sessions_and_what_to_do(condu, registry):
    head = registry.head()
    flip(registry.blobs.path(head.shared), -1)
    ran = condu("verify")
    assert ran.code == 14
    assert f"blob {head.shared}" in ran.out
    assert head.id[:12] in ran.out
    assert "what to do:" in ran.out
    path = registry.blobs.path(head.shared)
    assert f"  file: {path}\n" in ran.out
    assert ran.err.splitlines()[-2].startswith(f"error: 1 problem; the first: {path} is corrupt")
    assert condu("verify", "--quick").code == 0


def test_corruption_in_json_is_the_report_and_then_the_error(condu, registry):
    flip(registry.blobs.path(registry.head().shared), -1)
    ran = condu("verify", "--json")
    record = document(ran, 14)
    assert record["sound"] is False
    (problem,) = record["problems"]
    assert problem["object"] == f"blob {registry.head().shared}"
    assert problem["path"] == str(registry.blobs.path(registry.head().shared))
    assert set(problem["sessions"]) == {s.id for s in registry.sessions()}
    assert json.loads(ran.err)["error"]["code"] == 14


@pytest.mark.parametrize(("count", "end"), [(1, "notes00"), (7, "notes04 and 2 more")])
def test_files_of_others_are_a_warning_and_no_problem(condu, registry, count, end):
    for number in range(count):
        (registry.paths.tmp / f"notes{number:02}").write_text("mine")
    ran = condu("verify")
    assert ran.code == 0
    assert f"{count} file" in ran.err
    assert "condu did not write" in ran.err
    assert ran.err.endswith(f"{end}\n")
    assert document(condu("verify", "--json"))["unknown"] == [
        str(registry.paths.tmp / f"notes{number:02}") for number in range(count)
    ]


def test_leftovers_are_a_hint_and_no_problem(condu, registry):
    import numpy as np

    registry.blobs.put({"x": np.arange(5)})
    ran = condu("verify")
    assert ran.code == 0
    assert "no longer needed: 1 file" in ran.err
    assert "condu gc removes them" in ran.err
