"""Every object is complete once created: no attribute appears only after some method has run.

Otherwise calling methods in another order raises AttributeError, unseen by type checkers.
"""

import ast
from pathlib import Path

import pytest

import condu_cli

MODULES = sorted(Path(condu_cli.__file__).parent.rglob("*.py"))


def assigned(body: list[ast.stmt]) -> set[str]:
    """Return the names X of every `self.X = …` and `self.X: T = …`."""
    return {
        node.attr
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def given_by_the_class(cls: ast.ClassDef) -> set[str]:
    """Return names that have a value in the class body, or are dataclass fields."""
    is_record = any("dataclass" in ast.unparse(decorator) for decorator in cls.decorator_list)
    names = set()
    for statement in cls.body:
        if isinstance(statement, ast.Assign):
            names |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
        elif isinstance(statement, ast.AnnAssign) and (is_record or statement.value is not None):
            names.add(ast.unparse(statement.target))
    return names


def late_attributes(classes: dict[str, ast.ClassDef]) -> list[str]:
    """Return `Class.method sets attribute` for each that neither `__init__` nor the class sets."""

    def known(cls: ast.ClassDef) -> set[str]:
        names = given_by_the_class(cls)
        for method in cls.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                names |= assigned(method.body)
        for base in map(ast.unparse, cls.bases):
            names |= known(classes[base]) if base in classes else set()
        return names

    return [
        f"{cls.name}.{method.name} sets {name}"
        for cls in classes.values()
        for method in cls.body
        if isinstance(method, ast.FunctionDef)
        for name in sorted(assigned(method.body) - known(cls))
    ]


def classes_in(*sources: str) -> dict[str, ast.ClassDef]:
    nodes = (node for source in sources for node in ast.walk(ast.parse(source)))
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def test_no_method_adds_an_attribute():
    assert late_attributes(classes_in(*(path.read_text() for path in MODULES))) == []


@pytest.mark.parametrize("declared", ["", "    base: int\n"])
def test_an_attribute_that_only_a_method_sets_is_found(declared):
    source = f"class A:\n{declared}    def plan(self):\n        self.base = 1\n"
    assert late_attributes(classes_in(source)) == ["A.plan sets base"]
    inherited = "class B(A):\n    def __init__(self):\n        self.base = 0\n" + source
    assert late_attributes(classes_in(inherited)) == ["A.plan sets base"]
