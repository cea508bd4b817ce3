"""Whatever text one command takes in, every other can read: names, templates, paths.

Names that hypothesis draws, half of them hostile, are either refused where they enter or go through
a commit, an archive, its import and an archive of that, unchanged.
"""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st
from made_registries import made_expert, made_registry

from condu_cli.data.class_names import class_list
from condu_cli.data.sources.task_data import templates_for
from condu_cli.errors import DataError, UsageError
from condu_cli.registry.copies.archive import write_archive
from condu_cli.registry.copies.archive_import import read_archive
from condu_cli.registry.repository import Registry
from condu_cli.texts import fault_in
from condu_cli.workflows.sessions.committing import commit_expert
from condu_cli.workflows.sessions.verification import verify

HOSTILE = ["\x1b[2J", "caf\udce9", "\ud800", "a\tb", "\n", "\0", "a\u2028b", "\u202egpj.", "\x9b1m"]
ANY = st.text(st.characters(exclude_categories=()), min_size=1, max_size=12)
NAME = (ANY | st.sampled_from(HOSTILE)).filter(str.strip)
NAMES = st.lists(NAME, min_size=2, max_size=2, unique=True)


@given(names=NAMES, template=NAME)
def test_text_is_refused_where_it_enters_or_goes_everywhere(names, template):
    prompt = f"{template.replace('{}', '')} {{}}"
    with TemporaryDirectory() as place:
        folder = Path(place)
        file = folder / "names.json"
        file.write_text(json.dumps(names))
        try:
            _, classes = class_list(file)
            templates = templates_for("task", (prompt,))
        except (DataError, UsageError):
            assert any(fault_in(text) for text in (*names, prompt))
            return
        assert (list(classes), list(templates)) == (names, [prompt])
        goes_everywhere(folder, classes, templates)


def goes_everywhere(folder: Path, classes: tuple[str, ...], templates: tuple[str, ...]) -> None:
    """Commit an expert with this text, export the registry, import that, and export it again."""
    registry = made_registry(folder / "registry")
    expert = replace(made_expert("birds"), classes=classes, templates=templates)
    commit_expert(registry, expert, parent=None, command="learn birds")
    assert verify(registry).problems == ()
    write_archive(registry, folder / "one", overwrite=False)
    read_archive(folder / "one", folder / "copy")
    copy = Registry.open(folder / "copy")
    found = copy.head().entry("birds").expert
    assert (found.classes, found.templates) == (classes, templates)
    write_archive(copy, folder / "other", overwrite=False)
    assert (folder / "one").read_bytes() == (folder / "other").read_bytes()
