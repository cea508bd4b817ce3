"""The documents: links that resolve, lines that wrap, and a README that stays short."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        ROOT / "registry.example/README.md",
        ROOT / "tests/migrations/formats/README.md",
    ]
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
README_WORDS = 900
WIDTH = 110
COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install '.[mini]' && .venv/bin/condu demo",
    "python3 -m venv .venv && .venv/bin/pip install '.[mini,dev]' && .venv/bin/pytest",
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
"""A link's target; its text may begin on the previous line."""
ELSEWHERE = ("http://", "https://")
FILE = re.compile(r"`([a-z_.]+/[\w./-]+\.(?:py|json|sql|toml))`")
"""The name of one of our files in a text, relative to the root or the package."""


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _prose(text: str) -> list[tuple[int, str]]:
    """Lines outside code blocks, with their numbers; a block may be fenced or indented."""
    lines, fenced = [], False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            lines.append((number, line))
    return lines


def _anchors(text: str) -> set[str]:
    """GitHub's anchors of the headings: lower case, hyphens for spaces, no punctuation."""
    titles = [line.lstrip("#").strip() for _, line in _prose(text) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _broken_links(folder: Path, text: str) -> list[str]:
    """Links to files that do not exist, or to headings that they do not have."""
    broken = []
    for target in (found for _, line in _prose(text) for found in LINK.findall(line)):
        if target.startswith(ELSEWHERE):
            continue
        name, _, anchor = target.partition("#")
        path = folder / name
        resolves = not name or path.exists()
        if resolves and anchor:
            resolves = anchor in _anchors(path.read_text("utf-8") if name else text)
        if not resolves:
            broken.append(target)
    return broken


def test_the_readme_is_short() -> None:
    assert len(_text("README.md").split()) <= README_WORDS


@pytest.mark.parametrize("line", COMMANDS)
def test_the_readme_has_its_two_commands_word_for_word(line: str) -> None:
    assert line in _text("README.md").splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_resolves(name: str) -> None:
    assert _broken_links((ROOT / name).parent, _text(name)) == []


def test_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# Two words, and `code`\n", encoding="utf-8")
    text = (
        "# Here\n[a](there.md) [b](there.md#two-words-and-code) [c](#here) [d](https://x.org/#y)\n"
        "[e](gone.md) [f](there.md#three)\n[g](#there)\n```\n[h](in-code.md)\n```\n"
    )
    assert _broken_links(tmp_path, text) == ["gone.md", "there.md#three", "#there"]


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name: str) -> None:
    named = FILE.findall(_text(name))
    roots = (ROOT, ROOT / "condu_cli")
    assert [n for n in named if not any((root / n).exists() for root in roots)] == []


@pytest.mark.parametrize("name", NAMES)
def test_lines_wrap(name: str) -> None:
    """Tables and code blocks may be wider; a table's row cannot be wrapped."""
    long = [n for n, line in _prose(_text(name)) if len(line) > WIDTH and line[0] != "|"]
    assert long == []


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(LINK.findall(_text("README.md")))
    reached = {target.partition("#")[0] for target in linked}
    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} <= reached


def test_the_page_of_commands_is_up_to_date() -> None:
    """`python docs/make_cli.py` writes it again; it must be the same in any terminal."""
    made = subprocess.run(
        [sys.executable, "-c", "import make_cli; print(make_cli.page(), end='')"],
        cwd=ROOT / "docs",
        env={**os.environ, "COLUMNS": "40", "PYTHONPATH": str(ROOT / "docs")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == _text("docs/cli.md"), "run python docs/make_cli.py"


def test_the_picture_of_the_rooms_is_the_package() -> None:
    """Every room in CONTRIBUTING exists, and every package is drawn."""
    _, _, section = _text("CONTRIBUTING.md").partition("## The rooms")
    picture = section.split("```")[1]
    packages = {
        ".".join(path.parent.relative_to(ROOT / "condu_cli").parts)
        for path in (ROOT / "condu_cli").rglob("__init__.py")
    } - {""}
    top = {name for name in packages if "." not in name}
    drawn = {word for word in re.findall(r"[a-z_.]+", picture) if "." in word or word in top}
    assert drawn == packages


def test_every_file_that_contributing_names_is_there() -> None:
    named = re.findall(r"`((?:[\w.]+/)+[\w.]*)`", _text("CONTRIBUTING.md"))
    gone = [n for n in named if not (ROOT / n).exists() and not (ROOT / "condu_cli" / n).exists()]
    assert [name for name in gone if not name.startswith("../")] == []
