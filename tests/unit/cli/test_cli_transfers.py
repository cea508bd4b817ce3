"""`export` and `import` on the command line."""

import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from condu_cli.backbone.base_models import load_base


@pytest.fixture
def picture(colours):
    return sorted(colours.glob("*/*.png"))[0]


@pytest.fixture
def exported(condu, learned, tmp_path):
    file = tmp_path / "warm.safetensors"
    ran = condu("export", "--task", "warm", "-o", file)
    assert ran.code == 0, ran.err
    return file


@pytest.fixture
def names(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("blue\nred\n")
    return file


@pytest.fixture
def archive(condu, learned, tmp_path):
    """The whole registry in one file."""
    file = tmp_path / "all.condu"
    ran = condu("export", "-o", file)
    assert ran.code == 0, ran.err
    assert f"condu import {file} --registry NEW_FOLDER" in ran.err
    return file


# Export


def test_an_export_says_what_it_wrote_and_how_it_is_loaded(condu, learned, tmp_path):
    file = tmp_path / "warm.safetensors"
    ran = condu("export", "--task", "warm", "-o", file)
    assert ran.code == 0, ran.err
    assert (
        f"Exported task warm of session {json.loads(condu('log', '--json').out)[0]['session'][:12]}"
        in ran.out
    )
    assert f'open_clip.create_model_and_transforms("condu-tiny", pretrained="{file}")' in ran.out
    assert f"condu import --task NAME --weights {file}" in ran.err


def test_an_export_as_json(condu, learned, tmp_path):
    file = tmp_path / "warm.safetensors"
    ran = condu("export", "--task", "warm", "-o", file, "--session", "@", "--json")
    found = json.loads(ran.out)
    assert list(found) == [
        "path",
        "bytes",
        "kind",
        "task",
        "session",
        "base",
        "architecture",
        "load",
        "head_path",
        "head_bytes",
    ]
    assert found["bytes"] == file.stat().st_size
    assert (found["kind"], found["task"], found["base"]) == ("expert", "warm", "tiny")
    assert (found["head_path"], found["head_bytes"]) == (None, 0)


@pytest.mark.parametrize("options", [("--task", "warm"), ("--base",), ()])
def test_nothing_is_exported_into_a_registry(condu, learned, tmp_path, options):
    file = tmp_path / "registry" / "blobs" / "mine.safetensors"
    ran = condu("export", *options, "-o", file)
    assert ran.code == 2
    assert f"is inside the registry at {tmp_path / 'registry'}" in ran.err
    assert not file.exists()


def test_the_base_model_is_exported(condu, learned, tmp_path):
    file = tmp_path / "base.safetensors"
    ran = condu("export", "--base", "-o", file)
    assert ran.code == 0, ran.err
    assert "Exported base model tiny" in ran.out
    state = load_base("tiny").clip.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(file).items())


def test_the_whole_registry_is_exported_where_nothing_is_named(condu, archive):
    assert condu("export", "-o", archive).code == 2
    ran = condu("export", "-o", archive, "--force", "--json")
    found = json.loads(ran.out)
    assert (found["kind"], found["tasks"]) == ("registry", ["warm"])
    assert (found["path"], found["size"]) == (str(archive), archive.stat().st_size)


def test_files_are_overwritten_by_force_only(condu, exported):
    before = exported.stat().st_ino
    ran = condu("export", "--task", "warm", "-o", exported)
    assert ran.code == 2
    assert "--force" in ran.err
    assert exported.stat().st_ino == before
    assert condu("export", "--task", "warm", "-o", exported, "--force").code == 0


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_files_have_the_mode_of_the_umask(condu, learned, tmp_path, umask):
    file, before = tmp_path / "warm.safetensors", os.umask(umask)
    try:
        condu("export", "--task", "warm", "-o", file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--task", "warm", "--base"), 2, "use only one of"),
        (("--base", "--session", "@"), 2, "--session needs --task"),
        (("--task", "cold"), 4, "no task 'cold'"),
        (("--task", "warm", "--session", "@~1"), 4, "no tasks before the first session"),
        (("--task", "warm", "--session", "zzzz"), 4, "zzzz"),
    ],
)
def test_what_makes_no_sense_is_not_exported(condu, learned, tmp_path, options, code, message):
    file = tmp_path / "x.safetensors"
    ran = condu("export", "-o", file, *options)
    assert ran.code == code
    assert message in ran.err
    assert not file.exists()


def test_an_export_needs_a_registry_and_a_file(condu, tmp_path):
    assert condu("export", "--task", "warm").code == 2
    assert condu("export", "--task", "warm", "-o", tmp_path / "x.safetensors").code == 10


# Import


def test_a_round_trip_answers_the_same(condu, exported, tmp_path, picture):
    other = tmp_path / "other"
    ran = condu("import", "--task", "moved", "--weights", exported, "--registry", other)
    assert ran.code == 0, ran.err
    assert "Imported moved from warm.safetensors in session" in ran.out
    assert "prototypes from text alone" in ran.out
    assert f"condu rollback --registry {other} undoes it" in ran.err
    assert "warning: task moved has no pictures" in ran.err
    answers = [
        json.loads(condu("predict", picture, "--task", task, "--registry", path, "--json").out)
        for task, path in (("warm", tmp_path / "registry"), ("moved", other))
    ]
    assert answers[0]["label"] == answers[1]["label"]
    assert answers[0]["probability"] == answers[1]["probability"]
    shown = condu("show", "moved", "--registry", other)
    assert shown.code == 0, shown.err
    assert condu("rollback", "--registry", other).code == 0


def test_an_import_with_pictures_as_json(condu, exported, colours, tmp_path):
    ran = condu(
        "import", "--task", "moved", "--weights", exported, "--data", colours, "--json",
        "--registry", tmp_path / "other",
    )  # fmt: skip
    summary = json.loads(ran.out.splitlines()[-1])
    assert (summary["task"], summary["images"], summary["classes"]) == ("moved", 8, 2)
    assert summary["warnings"] == []


def test_a_foreign_checkpoint_is_imported(condu, tmp_path, names, picture):
    state = {name: t.clone() for name, t in load_base("tiny").clip.state_dict().items()}
    state["visual.proj"] += 0.01
    torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}}, tmp_path / "f.pt")
    ran = condu("import", "--task", "t", "--weights", tmp_path / "f.pt", "--class-names", names,
                "--base", "tiny", "--template", "a {}.")  # fmt: skip
    assert ran.code == 0, ran.err
    assert json.loads(condu("predict", picture, "--json").out)["task"] == "t"


def test_a_dry_run_prints_the_plan_and_writes_nothing(condu, exported, tmp_path):
    other = tmp_path / "other"
    options = ("import", "--task", "moved", "--weights", exported, "--registry", other, "-n")
    plan = json.loads(condu(*options, "--json").out)
    assert plan["dry_run"] is True
    assert plan["creates_registry"] is True
    assert plan["classes"] == ["blue", "red"]
    assert plan["base"] == "tiny"
    assert plan["warnings"]
    ran = condu(*options)
    assert "Nothing was written" in ran.err
    assert "image_size" in ran.out
    assert not other.exists()


def test_a_whole_registry_is_imported_to_the_registrys_path(condu, archive, tmp_path, picture):
    new = tmp_path / "new"
    ran = condu("import", archive, "--registry", new)
    assert ran.code == 0, ran.err
    assert f"Imported {archive} to the new registry {new}" in ran.out
    assert "tasks: warm; base model tiny" in ran.out
    assert "remove that folder" in ran.err
    answers = [condu("predict", picture, "--registry", r, "--json").out
               for r in (new, tmp_path / "registry")]  # fmt: skip
    assert answers[0] == answers[1]
    again = condu("import", archive, "--registry", new)
    assert again.code == 2


def test_an_imported_registry_as_json_with_its_base_model(condu, archive, tmp_path):
    new = tmp_path / "new"
    ran = condu("import", archive, "--registry", new, "--base", "tiny", "--json")
    found = json.loads(ran.out)
    assert (found["kind"], found["path"], found["base_id"]) == ("registry", str(new), "tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--weights FILE is missing"),
        (("--task", "x"), "--weights FILE is missing"),
        (("--weights", "x.pt"), "--task NAME is missing"),
        (("all.condu", "--task", "x"), "all.condu is read as a whole registry"),
        (("all.condu", "--image-size", "32"), "all.condu is read as a whole registry"),
        (("all.condu", "-n"), "--dry-run applies to a single task"),
    ],
)
def test_contradicting_options_are_usage_errors(condu, arguments, message, tmp_path):
    ran = condu("import", *arguments)
    assert ran.code == 2
    assert message in ran.err
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize("existing", [True, False])
def test_a_checkpoint_in_the_place_of_an_archive_says_how_it_is_imported(
    condu, exported, tmp_path, existing
):
    registry = tmp_path / ("registry" if existing else "new")
    ran = condu("import", exported, "--registry", registry)
    assert ran.code == 2
    assert "holds the weights of one model" in ran.err
    assert f"hint: condu import --task NAME --weights {exported} --registry {registry}\n" in ran.err


def test_an_archive_in_the_place_of_a_checkpoint_says_how_it_is_imported(condu, archive, tmp_path):
    for name in ("all.condu", "all.safetensors", "all.pt"):
        archive = archive.rename(tmp_path / name)
        for registry in (tmp_path / "registry", tmp_path / "new"):
            ran = condu("import", "--task", "x", "--weights", archive, "--registry", registry)
            assert ran.code == 2
            assert f"condu import {archive} --registry NEW_FOLDER\n" in ran.err


@pytest.mark.parametrize(
    "options", [("--task", "warm"), ("--base",), (), ("--task", "warm", "--force")]
)
def test_no_output_creates_its_parent_folder(condu, learned, tmp_path, options):
    file = tmp_path / "no where" / "x.safetensors"
    ran = condu("export", *options, "-o", file)
    assert ran.code == 2
    assert f"hint: mkdir -p '{file.parent}'\n" in ran.err
    assert not file.parent.exists()


def test_another_base_model_is_refused_with_its_exit_code(condu, exported, tmp_path, names):
    state = {name: t.clone() for name, t in load_base("tiny").clip.state_dict().items()}
    state["visual.proj"] += 1
    save_file(state, tmp_path / "other.safetensors")
    base = f"condu-tiny:{tmp_path / 'other.safetensors'}"
    ran = condu("import", "--task", "x", "--weights", exported, "--registry", tmp_path / "o",
                "--base", base)  # fmt: skip
    assert ran.code == 13
    assert "was fine-tuned from base model tiny" in ran.err


def test_a_trap_is_not_sprung(condu, tmp_path, names):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    ran = condu("import", "--task", "x", "--weights", tmp_path / "trap.pt", "--class-names", names,
                "--base", "tiny")  # fmt: skip
    assert ran.code == 15
    assert "never run" in ran.err
    assert not (tmp_path / "sprung").exists()


def test_an_archive_that_is_not_there_was_exported_from_another_registry(condu, tmp_path):
    """--registry names the one to be created: nothing can be exported from it."""
    ran = condu("import", tmp_path / "gone.condu", "--registry", "new")
    assert ran.code == 2
    assert "condu export -o FILE --registry OTHER\n" in ran.err
    assert "new" not in ran.err
