"""Everything in the package is used in the package: nothing exists only for tests."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import condu_cli

ROOT = Path(condu_cli.__file__).parent

CALLED_FROM_OUTSIDE = {
    # Typer, Rich, SQLAlchemy, torch and `string.Formatter` call these.
    "main._root",
    "cli.writing.output.PipeConsole.on_broken_pipe",
    "cli.hints.templates._Text.get_value",
    "registry.database.tables.CanonicalJSON.process_bind_param",
    "registry.database.tables.CanonicalJSON.process_result_value",
    "registry.database.tables.PathText.process_bind_param",
    "registry.database.tables.PathText.process_result_value",
    "backbone.models.folded_norms._Relu6.forward",
    # Transfer, Average and Last, the figures of `bench`.
    "core.metrics.sequence_metrics",
    "core.metrics.SequenceMetrics.mean_transfer",
    "core.metrics.SequenceMetrics.mean_average",
    "core.metrics.SequenceMetrics.mean_last",
}


class Package:
    """The modules under a folder, and which names each of them uses."""

    def __init__(self, root: Path) -> None:
        files = {
            path: path.relative_to(root).with_suffix("")
            for path in root.rglob("*.py")
            # Alembic calls these, and only an installed package contains them.
            if path.relative_to(root).parts[0] != "migrations"
        }
        self.trees = {
            ".".join(name.parts): ast.parse(path.read_text()) for path, name in files.items()
        }
        self.imported: dict[str, set[str]] = defaultdict(set)
        self.attributes: set[str] = set()
        for tree in self.trees.values():
            self._read(tree)

    def _read(self, tree: ast.Module) -> None:
        modules: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                room = node.module.removeprefix("condu_cli").removeprefix(".")
                for alias in node.names:
                    inner = f"{room}.{alias.name}".removeprefix(".")
                    if inner in self.trees:
                        modules[alias.asname or alias.name] = inner
                    self.imported[room].add(alias.name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                self.attributes.add(node.attr)
                if isinstance(node.value, ast.Name) and node.value.id in modules:
                    self.imported[modules[node.value.id]].add(node.attr)

    def unused(self) -> Iterator[str]:
        """Return functions, classes, constants and methods that only name themselves."""
        for module, tree in self.trees.items():
            for node in tree.body:
                for name in names_of(node):
                    if name not in self.imported[module] and not names(tree, node, name):
                        yield f"{module}.{name}"
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    for method in node.body:
                        is_method = isinstance(method, ast.FunctionDef)
                        if is_method and method.name not in self.attributes | {"register"}:
                            yield f"{module}.{node.name}.{method.name}"


def names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    found = [
        inner.id for target in targets for inner in ast.walk(target) if type(inner) is ast.Name
    ]
    return [name for name in found if not name.startswith("__")]


def names(tree: ast.Module, owner: ast.stmt, name: str) -> bool:
    """Whether a module names something outside its definition, even in an annotation."""
    own = set(ast.walk(owner))
    return any(
        node not in own
        and (
            (isinstance(node, ast.Name) and node.id == name)
            or (isinstance(node, ast.Constant) and re.search(rf"\b{name}\b", str(node.value)))
        )
        for node in ast.walk(tree)
    )


def is_special(name: str) -> bool:
    """Whether a name is used in ways that the search cannot see.

    Commands register themselves as `noun.register(app)`, Python calls dunders, and the module of
    the loops, `vectorised` or `compiled`, is chosen at run time.
    """
    module, _, last = name.rpartition(".")
    loops = module in ("core.passes.compiled", "core.passes.vectorised")
    return loops or last == "register" or (last.startswith("__") and last.endswith("__"))


def test_nothing_is_without_a_caller():
    found = {name for name in Package(ROOT).unused() if not is_special(name)}
    assert found - CALLED_FROM_OUTSIDE == set()


def test_what_is_called_from_outside_is_still_there():
    assert set(Package(ROOT).unused()) >= CALLED_FROM_OUTSIDE


def test_what_only_itself_uses_is_found(tmp_path):
    (tmp_path / "a.py").write_text(
        "LIMIT = 1\n"
        "def used(): return LIMIT\n"
        "def alone(): return alone()\n"
        "class A:\n"
        "    def met(self): return used()\n"
        "    def lonely(self): return 2\n"
    )
    (tmp_path / "b.py").write_text("from condu_cli.a import A\nprint(A().met())\n")
    assert sorted(Package(tmp_path).unused()) == ["a.A.lonely", "a.alone"]
