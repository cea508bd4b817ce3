"""registry.example: the repository's registry opens, verifies, predicts and rolls back."""

import json
import re
import shutil
from pathlib import Path

import pytest

from condu_cli.data.sources.embedded import write_embedded

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "registry.example"
LARGEST = 10_000_000  # bytes: every clone contains it


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A copy without empty folders, since git keeps none."""
    folder = tmp_path_factory.mktemp("example") / "registry"
    ignore = shutil.ignore_patterns("lock*", "tmp", "backups", "trained")
    return Path(shutil.copytree(EXAMPLE, folder, ignore=ignore))


@pytest.fixture(scope="module")
def condu(example, condu_in):
    run = condu_in(example.parent)

    def call(*arguments):
        done = run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return call


def test_it_is_small_and_says_nothing_of_the_machine_that_made_it():
    files = [path for path in EXAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST
    content = (EXAMPLE / "condu.sqlite").read_bytes()
    assert re.search(rb"/(home|root|tmp|Users|work)/", content) is None


def test_it_verifies(condu):
    (found,) = condu("verify")
    assert found["sound"] is True
    assert found["sessions"] == 2
    assert found["leftovers"] == []


def test_its_second_session_is_head_and_its_first_a_patch(condu):
    (log,) = condu("log")
    assert [(s["task"], s["stored"], s["head"]) for s in log] == [
        ("shapes", "files", True),
        ("digits", "patch", False),
    ]
    assert log[1]["tags"] == ["digits-only"]


@pytest.mark.slow
def test_it_distinguishes_digits_from_shapes_and_classifies_them(condu, tmp_path):
    for name in ("digits", "shapes"):
        write_embedded(name, tmp_path / name)
    digits, shapes = (tmp_path / name / "test" for name in ("digits", "shapes"))
    pictures = {
        sorted((digits / "0").iterdir())[0]: ("digits", "the digit zero"),
        sorted((digits / "7").iterdir())[0]: ("digits", "the digit seven"),
        sorted((shapes / "star").iterdir())[0]: ("shapes", "star shape"),
        sorted((shapes / "circle").iterdir())[0]: ("shapes", "circle shape"),
    }
    answers = condu("predict", *pictures)
    assert [(a["task"], a["label"]) for a in answers] == list(pictures.values())


@pytest.mark.slow
def test_it_goes_back_to_its_tag_and_forth_again(condu):
    condu("rollback", "digits-only")
    (tasks,) = condu("ls")
    assert [task["task"] for task in tasks] == ["digits"]
    (found,) = condu("verify")
    assert found["sound"] is True
    condu("rollback", "--undo")
    (tasks,) = condu("ls")
    assert [task["task"] for task in tasks] == ["digits", "shapes"]


def test_its_readme_names_the_command_that_makes_it_again():
    assert "./regenerate.sh" in (EXAMPLE / "README.md").read_text(encoding="utf-8")
    script = (EXAMPLE / "regenerate.sh").read_text(encoding="utf-8")
    for step in ("condu init --base mini", "condu learn --task digits", "condu export", "verify"):
        assert step in script
