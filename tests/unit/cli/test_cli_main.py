"""The program's surface: help, global options, exit codes, one line per mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from made_registries import files_of, flip, made_registry

from condu_cli import __version__
from condu_cli.cli.command import Settings, new_run
from condu_cli.cli.groups import GROUPS
from condu_cli.errors import IntegrityError
from condu_cli.main import app, main
from condu_cli.registry.database import migration
from condu_cli.registry.repository import Registry

COMMANDS = sorted(typer.main.get_command(app).commands)


def records(text: str) -> list:
    return [json.loads(line) for line in text.splitlines()]


def assert_one_error(ran, code: int, *parts: str) -> None:
    """Exactly one error line and one hint, both with a text, and no traceback."""
    said = ran.err.splitlines()
    assert ran.code == code, ran.err
    assert [line.partition(":")[0] for line in said] == ["error", "hint"], ran.err
    assert all(len(line.partition(":")[2].strip()) > 5 for line in said), ran.err
    assert "Traceback" not in ran.err
    for part in parts:
        assert part in ran.err


# Help


def test_the_commands_of_the_design_are_there():
    assert set(COMMANDS) >= {
        "bases", "demo", "diff", "doctor", "evaluate", "forget", "gc", "init", "learn", "log",
        "ls", "predict", "rename", "rollback", "show", "storage-report", "tag", "tasks", "verify",
    }  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(condu, name, option):
    ran = condu(name, option)
    assert (ran.code, ran.err) == (0, "")
    assert f"condu {name}" in ran.out
    for shared in ("--registry", "--json", "--quiet", "--yes"):
        assert shared in ran.out


def test_the_programs_help_lists_every_command_and_the_first_step(condu):
    ran = condu("--help")
    assert (ran.code, ran.err) == (0, "")
    assert all(name in ran.out for name in COMMANDS)
    assert "condu demo" in ran.out


def test_the_programs_help_groups_its_commands_most_used_first(condu):
    """Group by group and command by command, in the order of the table."""
    lines = [line.strip("│╭─ ") for line in condu("--help").out.splitlines()]
    starts = [line.split()[0] for line in lines if line.split()]
    listed = [found for found in starts if found in COMMANDS]
    assert listed == [name for names in GROUPS.values() for name in names]
    headings = [line.strip("─╮ ") for line in lines if line.endswith("─╮")]
    assert headings == ["Options", "Global options", *GROUPS]


def test_every_command_is_summed_up_in_a_line_of_a_narrow_terminal(condu, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, _, groups = condu("--help").out.partition("─ Start ─")
    wrapped = [line for line in groups.splitlines() if line.startswith("│  ")]
    assert wrapped == []


def test_no_arguments_show_the_help_and_no_empty_error(condu):
    ran = condu()
    assert ran.code == 2
    assert "Teach and ask" in ran.out + ran.err
    assert "error:" not in ran.err


def test_the_version_is_the_packages(condu):
    ran = condu("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"condu {__version__}\n", "")


# Global options before and after the command


@pytest.mark.parametrize("args", [("--json", "bases"), ("bases", "--json")])
def test_json_works_before_and_after_the_command(condu, args):
    ran = condu(*args)
    assert (ran.code, ran.err) == (0, "")
    assert records(ran.out)[0][0]["id"] == "mini"


@pytest.mark.parametrize("before", [True, False])
def test_the_registry_is_named_before_or_after_the_command(condu, tmp_path, before):
    elsewhere = ("--registry", tmp_path / "elsewhere")
    ran = condu(*elsewhere, "log") if before else condu("log", *elsewhere)
    assert_one_error(ran, 10, str(tmp_path / "elsewhere"))


def test_an_option_after_the_command_takes_precedence(condu, tmp_path):
    ran = condu("--registry", tmp_path / "first", "log", "--registry", tmp_path / "second")
    assert_one_error(ran, 10, str(tmp_path / "second"))


@pytest.mark.parametrize("before", [True, False])
def test_a_hint_repeats_the_registry_that_was_named(condu, tmp_path, before):
    made_registry(tmp_path / "my own", "birds")
    named = ("--registry", tmp_path / "my own")
    command = ("rollback", "ffffffff")
    ran = condu(*named, *command) if before else condu(*command, *named)
    assert_one_error(ran, 4, f"hint: condu log --registry '{tmp_path}/my own' lists the sessions")


@pytest.mark.parametrize("args", [("-q", "bases"), ("bases", "-q"), ("bases", "--quiet")])
def test_quiet_drops_the_hints(condu, args):
    assert "hint" in condu("bases").err
    assert condu(*args).err == ""


@pytest.mark.parametrize("args", [("-n", "init"), ("init", "-n"), ("init", "--dry-run")])
def test_a_dry_run_changes_nothing(condu, tmp_path, args):
    ran = condu(*args, "--base", "tiny")
    assert ran.code == 0
    assert ran.out.startswith("Would create a registry at ")
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize(
    "args",
    [
        ("tag", "good"),
        ("backup", "copy"),
        ("export", "--base", "-o", "base"),
        ("export", "-o", "x"),
    ],
)
def test_what_has_no_dry_run_writes_nothing_where_one_is_asked_for(
    condu, tmp_path, monkeypatch, args
):
    registry = made_registry(tmp_path / "registry", "birds")
    monkeypatch.chdir(tmp_path)
    before = files_of(tmp_path)
    for option in ("-n", "--dry-run"):
        assert_one_error(condu(option, *args), 2, f"{args[0]} does not support --dry-run")
    assert files_of(tmp_path) == before
    assert registry.tags() == {}
    assert [path.name for path in tmp_path.iterdir()] == ["registry"]


# Typical mistakes


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--nope"], ["--nope"]),
        (["nonsense"], ["nonsense", "condu --help"]),
        (["log", "--nope"], ["--nope", "condu log --help"]),
        (["learn"], ["needs a name", "condu learn --task NAME"]),
        (["predict"], ["PATH", "condu predict --help"]),
        (["learn", "--task", "a/b"], ["a/b"]),
        (["learn", "--task", "x", "--iterations", "0"], ["--iterations"]),
        (["learn", "--task", "x", "--iterations", "many"], ["--iterations", "integer"]),
        (["learn", "--task", "x", "--device", "tpu"], ["tpu", "--device cpu"]),
        (
            ["learn", "--task", "shapes", "--lr", "0", "--base", "tiny"],
            ["--lr must be above 0, not 0"],
        ),
        (["learn", "--task", "shapes", "--template", "no place"], ["{}", "--template"]),
        (["init", "--base", "nonsense"], ["'nonsense'", "condu bases"]),
        (["init", "--method", "magic"], ["magic"]),
        (["predict", "a.png", "--csv", "--labels", "one"], ["fewer than two labels"]),
        (["predict", "a.png", "--router", "best"], ["best"]),
        (["rollback", "abcd", "--undo"], ["use only one of"]),
        (["rollback", "-n", "2", "--undo"], ["use only one of"]),
    ],
)
def test_a_wrong_command_line_ends_with_2(condu, args, parts):
    assert_one_error(condu(*args), 2, *parts)


@pytest.mark.parametrize(
    "args",
    [
        *(["log"], ["ls"], ["show"], ["rollback"], ["storage-report"], ["evaluate"]),
        *(["tag"], ["diff"], ["gc"], ["verify"], ["predict", "x"], ["forget", "x"]),
        *(["rename", "x", "y"], ["learn", "--resume"]),
    ],
)
def test_without_a_registry_the_way_to_one_is_named(condu, args):
    assert_one_error(condu(*args), 10, "there is no registry at", "condu init")


def test_csv_and_json_exclude_each_other(condu):
    ran = condu("predict", "a.png", "--csv", "--json")
    assert ran.code == 2
    assert "use only one of" in records(ran.err)[0]["error"]["message"]


@pytest.mark.usefixtures("learned")
@pytest.mark.parametrize(
    ("args", "code", "parts"),
    [
        (["predict", "a.png", "--task", "wram"], 4, ["wram", "Did you mean 'warm'"]),
        (["evaluate", "--task", "nothing"], 4, ["nothing", "warm"]),
        (["show", "nothing"], 4, ["nothing", "condu ls"]),
        (["rollback", "ffff"], 4, ["ffff", "condu log"]),
        (["rollback", "-n", "5"], 2, ["cannot go back 5 sessions"]),
        (["rollback", "--undo"], 2, ["rollback"]),
        (["predict", "gone.png"], 15, ["gone.png: no such file"]),
        (["learn", "--task", "warm"], 2, ["already been learned"]),
        (["learn", "--task", "new"], 15, ["no pictures for task 'new'", "--data DIR"]),
        (["learn", "--task", "new", "--data", "nowhere"], 15, ["nowhere: no such file or folder"]),
        (["learn", "--task", "shapes", "--base", "mini"], 2, ["belongs to base model tiny"]),
        (["init", "--base", "tiny"], 2, ["already"]),
    ],
)
def test_mistakes_with_a_registry_have_their_exit_codes(condu, args, code, parts):
    assert_one_error(condu(*args), code, *parts)


@pytest.mark.usefixtures("learned")
def test_data_of_one_folder_cannot_be_two_tasks(condu, colours):
    ran = condu("evaluate", "--task", "warm", "--task", "other", "--data", colours)
    assert_one_error(ran, 2, "--data applies to a single task")


@pytest.mark.usefixtures("learned")
def test_some_unreadable_pictures_end_with_3_after_the_answers(condu, colours):
    good = colours / "red" / "00.png"
    ran = condu("predict", good, "gone.png", "-q")
    assert_one_error(ran, 3, "1 of 2 inputs failed: gone.png: no such file")
    assert ran.out.startswith(f"{good}: ")


def test_a_registry_of_an_empty_session_has_nothing_to_predict(condu):
    assert condu("init", "--base", "tiny").code == 0
    assert_one_error(condu("predict", "a.png"), 4, "holds no tasks yet", "condu learn")


@pytest.mark.parametrize("args", [["log", "--json"], ["--json", "log"]])
def test_an_error_in_json_is_one_object_on_stderr(condu, args):
    ran = condu(*args)
    assert (ran.code, ran.out) == (10, "")
    (record,) = records(ran.err)
    assert set(record) == {"error"}
    assert record["error"]["code"] == 10
    assert "there is no registry" in record["error"]["message"]
    assert "condu init" in record["error"]["hint"]


def test_a_usage_error_in_json_is_one_object_too(condu):
    ran = condu("learn", "--json", "--nope")
    (record,) = records(ran.err)
    assert (ran.code, record["error"]["code"]) == (2, 2)
    assert "--nope" in record["error"]["message"]


EMPTY = [
    ("learn", "--task", "x", "--data", ""),
    ("learn", "--task", "x", "--data="),
    ("init", "--registry", ""),
    ("--registry", "", "log"),
    ("predict", ""),
    ("predict", "a.png", "--labels", ""),
    ("export", "-o", ""),
    ("backup", ""),
]


@pytest.mark.parametrize("arguments", EMPTY)
def test_an_empty_value_is_not_the_current_folder(condu, tmp_path, monkeypatch, arguments):
    """A shell makes one of an unset variable; a path would be the folder one is in."""
    monkeypatch.chdir(tmp_path)
    ran = condu(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "is empty" in ran.err
    assert "variable of your shell" in ran.err
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]


def test_an_empty_list_is_a_value(condu):
    assert condu("init", "--base", "tiny", "--exact", "").code == 0
    assert condu("init", "--base", "tiny", "--exact=", "-n", "--registry", "other").code == 0


# The boundary


@pytest.fixture
def failing(monkeypatch):
    """Make `init` fail with this exception in the middle."""

    def fail(exc: BaseException):
        def load_base(*_args):
            raise exc

        monkeypatch.setattr("condu_cli.backbone.base_models.load_base", load_base)

    return fail


def test_something_unexpected_ends_with_1_and_says_how_to_report_it(condu, failing):
    failing(ZeroDivisionError("division by zero\nsecond line"))
    ran = condu("init")
    assert_one_error(ran, 1, "unexpected ZeroDivisionError: division by zero", "CONDU_DEBUG=1")
    assert "second line" not in ran.err


def test_an_exception_without_a_message_still_has_a_line(condu, failing):
    failing(AssertionError())
    assert_one_error(condu("init"), 1, "unexpected AssertionError: no message")


def test_ctrl_c_ends_with_130_and_says_so(condu, failing):
    failing(KeyboardInterrupt())
    ran = condu("init")
    assert ran.code == 130
    assert_one_error(ran, 130, "error: interrupted\n", "Nothing that was committed is lost")


@pytest.mark.parametrize("named", [("--registry", "else where"), ("--registry=else where",)])
def test_ctrl_c_before_the_options_are_read_names_the_registry_all_the_same(
    condu, named, monkeypatch
):
    def interrupted(*_args, **_values):
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.main.get_command", interrupted)
    assert_one_error(condu("log", *named), 130, "condu log --registry 'else where' shows")
    assert "condu log shows" in condu("predict", "--", "--registry", "a.png").err


def test_a_tours_hints_name_the_tours_registry(capsys, tmp_path):
    """The demo runs other commands, which change its own registry, not the user's."""
    tour = new_run(Settings(registry=tmp_path / "mine")).inside(tmp_path / "tour", silent=False)
    tour.out.hint("condu rollback{here} undoes it")
    assert f"condu rollback --registry {tmp_path}/tour undoes it" in capsys.readouterr().err


def test_debugging_lets_the_exception_through(condu, failing, monkeypatch):
    failing(ZeroDivisionError("division by zero"))
    monkeypatch.setenv("CONDU_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["init"])


def test_debugging_shows_the_traceback(run_condu):
    ran = run_condu("log", env={"CONDU_DEBUG": "1"})
    assert ran.returncode != 0
    assert "Traceback (most recent call last)" in ran.stderr
    assert "NoRegistryError" in ran.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_leaves_is_not_an_error(options):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "condu_cli", "bases", "-q", *options],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_name_that_is_not_text_is_printed_escaped(run_condu, tmp_path):
    done = run_condu("ls", "--registry", f"{tmp_path}/bad\udcff")
    assert done.returncode == 10
    assert "bad\\xff" in done.stderr
    assert "Traceback" not in done.stderr


# The doctor


def test_a_failed_check_ends_the_doctor_with_1(condu, monkeypatch):
    from condu_cli.workflows.opening import installation
    from condu_cli.workflows.opening.installation import Check

    missing = Check("peft", False, "not installed", "library-missing", {"package": "peft"})
    found = [Check("torch", True, "2"), missing]
    monkeypatch.setattr(installation, "examine", lambda _: found)
    ran = condu("doctor")
    assert (ran.code, ran.err) == (1, "")
    assert "peft: pip install peft" in ran.out
    assert records(condu("doctor", "--json").out)[0]["ok"] is False
    monkeypatch.setattr(installation, "examine", lambda _: found[:1])
    assert condu("doctor").code == 0


# What people read


def test_learning_says_what_changed_and_how_to_undo_it(learned):
    assert "Learned warm in session " in learned.out
    assert "the registry holds 1 task\n" in learned.out
    assert "condu rollback undoes it" in learned.err
    assert "6 pictures (2 more held out) of 2 classes: base tiny, a head, then 2 " in learned.err


@pytest.mark.usefixtures("learned")
def test_a_rollback_says_where_head_is_and_how_to_return(condu):
    ran = condu("rollback")
    assert ran.code == 0
    assert ran.out.endswith("to the empty registry\n")
    assert "condu rollback --undo" in ran.err
    assert "(warm)\n" in condu("rollback", "--undo").out


@pytest.mark.usefixtures("learned")
def test_a_dry_rollback_moves_nothing(condu):
    before = condu("log", "--json").out
    assert condu("rollback", "--dry-run").out == "Would move HEAD to the empty registry\n"
    assert condu("rollback", "--undo", "--dry-run").code == 2  # like the real run
    assert condu("log", "--json").out == before


def test_a_dry_learn_writes_nothing(condu, colours, tmp_path):
    ran = condu("learn", "--task", "warm", "--data", colours, "--base", "tiny", "--dry-run")
    assert ran.code == 0
    assert "train_images       6" in ran.out
    assert "about" in ran.out
    assert "Nothing was written" in ran.err
    assert not (tmp_path / "registry").exists()


@pytest.mark.usefixtures("learned")
def test_csv_has_a_header_and_a_row_per_picture(condu, colours):
    import csv

    rows = list(csv.DictReader(condu("predict", colours, "--csv").out.splitlines()))
    assert [row["path"] for row in rows] == [str(p) for p in sorted(colours.rglob("*.png"))]
    assert set(rows[0]) == {"path", "label", "probability", "task", "expert", "similarity"}
    assert {row["task"] for row in rows} == {"warm"}


@pytest.mark.usefixtures("learned")
def test_a_file_name_is_not_a_formula_in_csv(condu, colours, monkeypatch):
    monkeypatch.chdir(colours / "red")
    Path("00.png").rename("=cmd.png")
    assert "\n'=cmd.png," in condu("predict", "=cmd.png", "--csv").out


@pytest.mark.usefixtures("learned")
def test_people_read_tables(condu):
    assert "HEAD" in condu("log").out
    assert "init" in condu("log", "--operations").out
    assert "mask density" in condu("ls").out
    assert "unified delta" in condu("storage-report").out
    assert "label space" in condu("evaluate", "--zero-shot").out
    shown = condu("show", "warm").out
    assert "rescaler          1.000000" in shown
    assert "2: blue, red" in shown
    assert "learn warm" in condu("show").out


def test_an_empty_registry_says_what_comes_first(condu):
    condu("init", "--base", "tiny")
    for name, text in (("log", "no sessions yet"), ("ls", "no tasks yet")):
        ran = condu(name)
        assert (ran.code, ran.out) == (0, f"{text}\n")
        assert "condu learn --task NAME" in ran.err


# Corruption


@pytest.mark.usefixtures("learned")
@pytest.mark.parametrize("blob", ["shared", "part", "prototypes"])
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_corrupt_session_answers_nothing_and_ends_with_14(
    condu, colours, tmp_path, blob, command
):
    registry = Registry.open(tmp_path / "registry")
    head = registry.head()
    entry = head.entry("warm")
    sha256 = {"shared": head.shared, "part": entry.part, "prototypes": entry.expert.prototypes}
    path = registry.blobs.path(sha256[blob])
    flip(path, -1)
    space = ["--label-space", "union"] if command == "evaluate" else [colours]
    for options in ([], ["--json"]):
        ran = condu(command, *space, *options)
        assert (ran.code, ran.out) == (14, "")
        assert f"{path.name} is corrupt" in ran.err
        assert f"needs {path}; restore it from a backup; " in ran.err


@pytest.mark.usefixtures("learned")
def test_a_migration_that_fails_is_not_tried_again_to_explain_it(condu, tmp_path, monkeypatch):
    def fails(*_args):
        raise ValueError("x")

    monkeypatch.setattr(migration, "SCHEMA_REVISION", "9999")
    monkeypatch.setattr(migration, "run_migrations", fails)
    ran = condu("log")
    assert ran.code == 14
    assert "cannot be migrated" in ran.err
    assert len(list((tmp_path / "registry" / "backups").iterdir())) == 1


@pytest.mark.usefixtures("learned")
@pytest.mark.parametrize("reason", ["blob-size-differs", "kept-file-corrupt"])
def test_only_an_error_that_can_be_explained_opens_the_registry(
    condu, failing, monkeypatch, reason
):
    def opened(*_args, **_options):
        raise AssertionError

    failing(IntegrityError("corrupt", reason=reason))
    monkeypatch.setattr(Registry, "open", opened)
    assert condu("init", "--registry", "another").code == 14


def test_every_error_that_is_explained_has_its_hint_in_the_table_that_is_asked_first():
    from condu_cli.cli.hints import corrupt_files
    from condu_cli.workflows.sessions.corruption import DERIVED, NAMED

    assert set(corrupt_files.HINTS) >= NAMED | DERIVED
