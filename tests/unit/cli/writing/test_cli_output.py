"""The one output sink in all its modes, at a fixed width."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from condu_cli.cli.writing import output
from condu_cli.cli.writing.output import Mode, Output, figures_text
from condu_cli.errors import DataError, UsageError
from condu_cli.workflows.progress import Progress

LONG = "a very long line " * 20


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told: `clock.now = 3.0`."""
    hands = SimpleNamespace(now=0.0)
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: hands.now))
    return hands


def training(done: int, total: int = 100, **figures) -> Progress:
    return Progress("training", done, total, figures)


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_person_reads_text_on_stdout_and_the_rest_on_stderr(capsys):
    out = Output(Mode.HUMAN)
    out.document({"a": 1}, lambda o: o.text("the answer"))
    out.note("a note")
    out.hint("a command")
    out.warning("careful")
    assert capsys.readouterr() == ("the answer\n", "a note\nhint: a command\nwarning: careful\n")


def test_a_program_reads_one_document_per_line(capsys):
    out = Output(Mode.JSON)
    out.document({"name": "Straße", "n": [1, None]}, lambda _: pytest.fail("not for people"))
    out.document([], lambda _: None)
    for say in (out.note, out.hint, out.text):
        say("nothing of this")
    out.table(["a"], [["b"]])
    assert capsys.readouterr() == ('{"name": "Straße", "n": [1, null]}\n[]\n', "")


def test_a_silent_command_says_nothing(capsys):
    out = Output(Mode.SILENT)
    out.document({}, lambda o: o.text("no"))
    for say in (out.text, out.note, out.hint, out.warning):
        say("no")
    out.table(["a"], [["b"]])
    with out.progress() as show:
        show(training(100))
    assert capsys.readouterr() == ("", "")


def test_quiet_keeps_results_and_warnings_only(capsys):
    out = Output(Mode.HUMAN, quiet=True)
    out.text("the answer")
    out.note("no")
    out.hint("no")
    out.warning("careful")
    with out.progress() as show:
        show(training(100))
    assert capsys.readouterr() == ("the answer\n", "warning: careful\n")


def test_a_warning_is_an_object_on_stderr_in_json(capsys):
    Output(Mode.JSON).warning("careful")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert lines(captured.err) == [{"warning": "careful"}]


def test_lines_are_not_wrapped_and_markup_is_not_interpreted(capsys):
    out = Output(Mode.HUMAN)
    out.text(LONG + "[red]x[/red]")
    out.note("[bold]" + LONG)
    assert capsys.readouterr() == (LONG + "[red]x[/red]\n", "[bold]" + LONG + "\n")


def test_a_table_aligns_figures_to_the_right(capsys):
    Output(Mode.HUMAN).table(["task", ">size"], [["dtd", "5 B"], ["[red]", "12 kB"]], title="here")
    rows = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row] == [
        "here",
        " task     size",
        " ─────────────",
        " dtd       5 B",
        " [red]   12 kB",
    ]


def test_a_table_off_a_terminal_is_as_wide_as_its_content(capsys):
    Output(Mode.HUMAN).table(["path"], [["x" * 150]])
    assert "x" * 150 in capsys.readouterr().out


def test_nothing_is_coloured_off_a_terminal(capsys):
    out = Output(Mode.HUMAN)
    out.warning("careful")
    out.error(UsageError("wrong", reason="usage"))
    out.table(["a"], [["b"]])
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err


def test_a_hint_quotes_and_repeats_the_registry_that_was_named(capsys):
    for registry in (None, Path("/my own")):
        Output(registry=registry).hint("condu forget {task!q}{here} removes it", task="a b")
    assert capsys.readouterr().err.splitlines() == [
        "hint: condu forget 'a b' removes it",
        "hint: condu forget 'a b' --registry '/my own' removes it",
    ]


# Errors


@pytest.mark.parametrize("mode", [Mode.HUMAN, Mode.SILENT])
def test_an_error_is_one_line_and_a_hint(capsys, mode):
    Output(mode, quiet=True).error(DataError("a.png: a folder", reason="not-a-picture-file"))
    assert capsys.readouterr() == ("", "error: a.png: a folder\nhint: Name a picture\n")


def test_an_error_without_a_hint_is_one_line(capsys):
    Output().error(DataError(LONG, reason="nowhere"))
    assert capsys.readouterr() == ("", f"error: {LONG}\n")


def test_an_error_in_json_is_the_contracts_object(capsys):
    Output(Mode.JSON).error(DataError("wrong", reason="not-json"))
    captured = capsys.readouterr()
    assert captured.out == ""
    record = {"code": 15, "reason": "not-json", "message": "wrong", "hint": "Check the file"}
    assert lines(captured.err) == [{"error": record}]


# Progress


def test_progress_in_json_is_silent_unless_the_result_is_a_stream(capsys, clock):
    with Output(Mode.JSON).progress() as show:
        show(training(100))
    with Output(Mode.JSON, quiet=True).progress(json_events=True) as show:
        show(training(100))
    assert capsys.readouterr() == ("", "")


def test_progress_in_json_is_at_most_one_line_a_second(capsys, clock):
    with Output(Mode.JSON).progress(json_events=True) as show:
        for done in range(1, 15):
            clock.now += 0.25
            show(training(done, loss=0.5))
    found = lines(capsys.readouterr().out)
    assert [line["done"] for line in found] == [5, 9, 13]
    assert found[0] == {"event": "training", "done": 5, "total": 100, "loss": 0.5}


def test_the_last_progress_of_a_stage_is_always_shown(capsys, clock):
    with Output(Mode.JSON).progress(json_events=True) as show:
        for stage in ("reading", "training"):
            for done in (1, 2, 3):
                show(Progress(stage, done, 3))
    assert [(line["event"], line["done"]) for line in lines(capsys.readouterr().out)] == [
        ("reading", 3),
        ("training", 3),
    ]


def test_progress_off_a_terminal_is_a_line_now_and_then_with_the_time_left(capsys, clock):
    with Output(Mode.HUMAN).progress() as show:
        show(training(0))
        clock.now = 9.9
        show(training(10))
        clock.now = 20.0
        show(training(20, loss=1.25, images_per_second=17.4))
        clock.now = 21.0
        show(training(100))
    assert capsys.readouterr() == (
        "",
        "training 20/100, loss 1.250, 17 images/s, 80 s left\ntraining 100/100\n",
    )


def test_off_a_terminal_instant_stages_are_not_mentioned(capsys, clock):
    with Output(Mode.HUMAN).progress() as show:
        for done in (1, 2, 3):
            clock.now += 3.0
            show(training(done, total=3))
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_is_a_bar(capsys, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(
        output, "_console", lambda file: Console(file=file, width=100, force_terminal=True)
    )
    with Output(Mode.HUMAN).progress() as show:
        show(training(50, loss=0.5))
        show(Progress("prototypes", 3, 3))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "50/100" in captured.err
    assert "loss 0.500" in captured.err
    assert "prototypes" in captured.err


def test_unknown_figures_are_left_out():
    assert figures_text({"batch": 3}) == ""
    assert figures_text({"loss": 0.1234, "images_per_second": 9.6}) == "loss 0.123, 10 images/s"


# Names from the outside

NAME = "a\tb\x1b[31m :cat: [red]x[/] \x9b2J \u202e"
SHOWN = r"a\tb\x1b[31m :cat: [red]x[/] \x9b2J \u202e"


def test_names_are_shown_as_they_are_in_every_kind_of_line(capsys):
    out = Output(Mode.HUMAN)
    out.text(NAME)
    out.table([f">{NAME}"], [[NAME]], title=NAME)
    found = capsys.readouterr().out
    assert found.count(SHOWN) == 4
    out.note(NAME)
    out.hint("{name}", name=NAME)
    out.warning(NAME)
    out.error(DataError(NAME, reason="no-data"))
    assert capsys.readouterr().err.count(SHOWN) == 4


def test_a_text_may_have_several_lines_and_an_error_has_one(capsys):
    out = Output(Mode.HUMAN)
    out.text("one\ntwo")
    assert capsys.readouterr().out == "one\ntwo\n"
    out.error(DataError("one\ntwo", reason="picture-too-large"))
    assert capsys.readouterr().err.splitlines()[0] == r"error: one\ntwo"


def test_json_keeps_a_name_and_escapes_what_a_terminal_would_obey(capsys):
    Output(Mode.JSON).document({"name": NAME + "\udce9\u2028ü"}, lambda _: None)
    line = capsys.readouterr().out
    assert json.loads(line) == {"name": NAME + "\udce9\u2028ü"}
    assert line.removesuffix("\n").isprintable()
    assert "ü" in line
