"""Errors and hints fit together: every failure has a hint, and every hint can be followed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import condu_cli
from condu_cli import errors
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
FILES = sorted(path for path in ROOT.rglob("*.py"))
LIBRARY = [
    path
    for path in FILES
    if path != ROOT / "main.py"
    and ROOT / "cli" not in path.parents
    and "migrations" not in str(path)
]
ALLOWED = {
    # The text of a file for whoever finds the folder, not what a call answers.
    ("registry/creation.py", "README_TEXT"),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> set[ast.expr]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The string literals of a module, without its docstrings and what is allowed."""
    tree = tree_of(path)
    left_out: set[ast.AST] = set(docstrings(tree))
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and (name_of(path), target.id) in ALLOWED:
            left_out |= set(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node.lineno, node.value


def raised(path: Path) -> Iterator[ast.Call]:
    """The calls that make an error of ours."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            yield node


def reasons(call: ast.Call) -> set[str]:
    """The reasons that a call spells out; none where it passes another error's on."""
    return {
        part.value
        for keyword in call.keywords
        if keyword.arg == "reason"
        for part in ast.walk(keyword.value)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_nothing_outside_the_command_line_speaks_its_words(path: Path) -> None:
    words = re.compile(rf"--[a-z]|\bcondu ({'|'.join(COMMANDS)})\b")
    assert [(line, text) for line, text in texts(path) if words.search(text)] == []
