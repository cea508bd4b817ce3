"""Errors and hints match: every failure has a hint, and every hint can be followed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest
import typer

import condu_cli
from condu_cli import errors
from condu_cli.cli.hints.making import HINTS, OPTIONS, RIDERS, option_of
from condu_cli.errors import ConduError
from condu_cli.main import app

ROOT = Path(condu_cli.__file__).parent
PROGRAM = typer.main.get_command(app)
COMMANDS = PROGRAM.commands
KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, ConduError)
}
ADVISED = {"Check", "Problem"}
"""Records of failures that are not errors, with `failure` and `facts`."""
FILES = sorted(path for path in ROOT.rglob("*.py"))
LIBRARY = [
    path
    for path in FILES
    if path != ROOT / "main.py"
    and ROOT / "cli" not in path.parents
    and "migrations" not in str(path)
]
ALLOWED = {
    # The text of a file in the registry, not of a result.
    ("registry/creation.py", "README"),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> set[ast.expr]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The string literals of a module, except docstrings and allowed ones."""
    tree = tree_of(path)
    left_out: set[ast.AST] = set(docstrings(tree))
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and (name_of(path), target.id) in ALLOWED:
            left_out |= set(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node.lineno, node.value


def failures(path: Path) -> Iterator[ast.Call]:
    """The calls that create an error, a doctor's check or a problem of verify's."""
    for node in ast.walk(tree_of(path)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in KINDS | ADVISED
        ):
            yield node


def reasons(call: ast.Call) -> set[str]:
    """The reasons spelled out in a call; empty if it passes on another error's."""
    return {
        part.value
        for keyword in call.keywords
        if keyword.arg in ("reason", "failure")
        for part in ast.walk(keyword.value)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


def facts(call: ast.Call) -> set[str] | None:
    """The names of the facts in a call; None if it passes on a mapping."""
    names = {keyword.arg for keyword in call.keywords}
    return None if names & {None, "facts"} else {str(name) for name in names}


RAISED = [(path, call) for path in FILES for call in failures(path)]
USED = {reason for _, call in RAISED for reason in reasons(call)}


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_nothing_outside_the_command_line_speaks_its_words(path: Path) -> None:
    words = re.compile(rf"--[a-z]|\bcondu ({'|'.join(COMMANDS)})\b")
    assert [(line, text) for line, text in texts(path) if words.search(text)] == []


def test_every_error_gives_a_reason() -> None:
    without = [
        f"{name_of(path)}:{call.lineno}"
        for path, call in RAISED
        if call.func.id not in ADVISED and not any(k.arg == "reason" for k in call.keywords)
    ]
    assert without == []


def test_every_reason_has_a_hint_and_every_hint_a_failure() -> None:
    assert USED - set(HINTS) == set()
    assert set(HINTS) - USED == set()


def test_a_hint_has_the_facts_that_it_is_made_of() -> None:
    """If a fact may be missing, the hint is a function that checks first."""
    lacking = []
    for path, call in RAISED:
        given = facts(call)
        for reason in reasons(call):
            hint = HINTS.get(reason)
            if isinstance(hint, str) and given is not None:
                needed = {name for _, name, _, _ in Formatter().parse(hint) if name} - {"here"}
                needed = needed - {"options"} | ({"parameters"} if "options" in needed else set())
                lacking += [(f"{name_of(path)}:{call.lineno}", n) for n in needed - given]
    assert lacking == []


HINT_TEXTS = [
    (path.name, text)
    for path in sorted((ROOT / "cli" / "hints").glob("*.py"))
    for _, text in texts(path)
]
HINT_TEXTS += [
    (name_of(path), part.value)
    for path in FILES
    for node in ast.walk(tree_of(path))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    if node.func.attr in ("hint", "filled")
    for argument in node.args
    for part in ast.walk(argument)
    if isinstance(part, ast.Constant) and isinstance(part.value, str)
]
"""Hints after something went well, too."""
FOREIGN = {"--force-reinstall", "--upgrade"}
"""Options of pip."""


def options_of(command: str) -> set[str]:
    return {option for p in COMMANDS[command].params for option in (*p.opts, *p.secondary_opts)}


EVERY_OPTION = {option for name in COMMANDS for option in options_of(name)}


def test_a_hint_names_commands_and_options_that_exist() -> None:
    unknown = [
        (name, word)
        for name, text in HINT_TEXTS
        for word in re.findall(r"(?<![\w/.])(?:condu |(?=--))([a-z-][\w-]*)", text)
        if word not in EVERY_OPTION | FOREIGN | set(COMMANDS) and word.strip("-")
    ]
    assert unknown == []


def test_a_command_in_a_hint_takes_the_options_it_is_given() -> None:
    word = r"(?: +(?:--[\w-]+|[A-Z]+|lora|\{\w+!q\}))"
    refused = [
        (name, command, option)
        for name, text in HINT_TEXTS
        for command, rest in re.findall(rf"condu ([a-z][\w-]*)({word}*)", text)
        for option in re.findall(r"--[a-z][\w-]*", rest)
        if option not in options_of(command)
    ]
    assert refused == []


WITHOUT_REGISTRY = {"bases", "demo", "doctor", "tasks"}
"""Commands that open no registry; all others would take the default one where a hint lacks it."""
COMMAND = re.compile(
    rf"condu ({'|'.join(map(re.escape, COMMANDS))})(?![\w-])"
    r"((?: +(?:--?[a-z][\w-]*|[A-Z][A-Z_]*|\[[A-Z]+\]|lora|before-cleanup|\{\w+(?:!q)?\}))*)"
    r"(\{here\})?"
)


def test_a_command_in_a_hint_names_the_registry_that_the_user_named() -> None:
    lacking = [
        (name, found[0])
        for name, text in HINT_TEXTS
        for found in COMMAND.finditer(text)
        if found[1] not in WITHOUT_REGISTRY and not found[2].endswith(" -h")
        if not found[3] and "--registry" not in found[2]
    ]
    assert lacking == []


CREATING = ("registry/copies/archive_import.py", "registry/creation.py")
"""Modules whose errors are about a registry that is still to be created."""
FIRST = {"init", "learn", "import"}
"""Commands that create a missing registry."""


def test_a_hint_does_not_ask_anything_of_a_registry_that_is_yet_to_be_created() -> None:
    created = {
        reason for path, call in RAISED if name_of(path) in CREATING for reason in reasons(call)
    }
    impossible = [
        (reason, found[0])
        for reason in sorted(created)
        if isinstance(hint := HINTS[reason], str)
        for found in COMMAND.finditer(hint)
        if found[3] and found[1] not in FIRST
    ]
    assert impossible == []


def test_a_command_to_run_next_is_written_by_way_of_a_hint() -> None:
    """Elsewhere in the command line nothing would repeat --registry."""
    hints = {(path, text) for path, text in HINT_TEXTS}
    loose = [
        (name_of(path), line, text)
        for path in FILES
        if ROOT / "cli" in path.parents
        for line, text in texts(path)
        if COMMAND.search(text) and not is_help(path, line)
        if (path.name, text) not in hints and (name_of(path), text) not in hints
    ]
    assert loose == []


def is_help(path: Path, line: int) -> bool:
    """Say whether a line belongs to the help of an option."""
    return any(
        keyword.value.lineno <= line <= (keyword.value.end_lineno or line)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "help"
    )


def test_every_parameter_at_fault_is_an_option() -> None:
    named = {
        keyword.value.value
        for _, call in RAISED
        for keyword in call.keywords
        if keyword.arg == "parameter" and isinstance(keyword.value, ast.Constant)
    }
    assert {option_of(name) for name in named} - EVERY_OPTION == set()
    assert set(OPTIONS.values()) <= EVERY_OPTION


def test_added_facts_say_what_is_kept() -> None:
    added = {
        keyword.arg
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr == "add"
        for keyword in node.keywords
    }
    assert set(RIDERS) <= added
