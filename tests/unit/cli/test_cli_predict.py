"""`condu predict`: answers of the base model alone, and what they are reported with."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SEA = ("--labels", "sea,fire", "--base", "tiny")


@pytest.fixture
def picture(colours) -> Path:
    return colours / "red" / "00.png"


def record(ran) -> dict:
    (line,) = ran.out.splitlines()
    return json.loads(line)


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "cache" not in path.parts}


# The base model alone


def test_labels_are_answered_without_a_registry_and_nothing_is_created(condu, picture, tmp_path):
    before = files_below(tmp_path)
    ran = condu("predict", picture, *SEA)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{picture}: ")
    assert ran.out.rstrip().endswith("[base model]")
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_mistyped_path_is_named_with_what_named_it(condu, picture, tmp_path, monkeypatch, quiet):
    wrong = tmp_path / "registri"
    by_option = condu("predict", picture, *SEA, "--registry", wrong, *quiet)
    warning = f"there is no registry at {wrong} (--registry): base model tiny answers alone"
    assert by_option.err.splitlines() == [f"warning: {warning}"]
    monkeypatch.setenv("CONDU_REGISTRY", str(wrong))
    by_environment = condu("predict", picture, *SEA, *quiet)
    assert f"{wrong} (CONDU_REGISTRY): base model" in by_environment.err
    assert by_environment.out == by_option.out


def test_the_default_place_is_named_too(condu, picture, tmp_path, monkeypatch):
    monkeypatch.delenv("CONDU_REGISTRY")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    ran = condu("predict", picture, *SEA)
    assert ran.code == 0
    assert f"there is no registry at {tmp_path / 'share'}" in ran.err
    assert ran.err.count("\n") == 1
    assert "(" not in ran.err


def test_json_keeps_its_contract_and_the_warning_is_an_object(condu, picture, tmp_path):
    ran = condu("predict", picture, *SEA, "--json")
    found = record(ran)
    assert (found["task"], found["experts"]) == (None, [])
    assert {answer["label"] for answer in found["top"]} == {"sea", "fire"}
    assert {answer["task"] for answer in found["top"]} == {None}
    assert sum(answer["probability"] for answer in found["top"]) == pytest.approx(1)
    assert "answers alone" in json.loads(ran.err)["warning"]


def test_csv_leaves_task_and_expert_empty(condu, picture):
    header, row = condu("predict", picture, *SEA, "--csv").out.splitlines()
    assert header == "path,label,probability,task,expert,similarity"
    assert row.split(",")[3:] == ["", "", ""]


@pytest.mark.parametrize("label", [os.fsdecode(b"caf\xe9"), "a\tb", "\x1b[2J"])
def test_a_label_is_one_line_of_text(condu, picture, label):
    ran = condu("predict", picture, "--labels", f"cat,{label}")
    assert (ran.code, ran.out) == (2, "")
    assert "error: the label '" in ran.err


@pytest.mark.skipif(os.name == "nt", reason="names are text")
def test_a_picture_may_have_any_name(condu, picture):
    odd = picture.with_name(os.fsdecode(b"p\xe9\x1b[31m:cat:.png"))
    picture.rename(odd)
    shown = r"p\xe9\x1b[31m:cat:.png"
    assert f"/{shown}: " in condu("predict", odd, *SEA).out
    assert condu("predict", odd, *SEA, "--csv").out.splitlines()[1].split(",")[0].endswith(shown)
    assert record(condu("predict", odd, *SEA, "--json"))["path"] == str(odd)


def test_an_empty_registrys_own_base_model_answers(condu, picture, tmp_path):
    assert condu("init", "--base", "tiny").code == 0
    before = files_below(tmp_path)
    ran = condu("predict", picture, "--labels", "sea,fire")
    assert ran.code == 0, ran.err
    assert "holds no tasks yet (CONDU_REGISTRY): base model tiny answers alone" in ran.err
    assert ran.out == condu("predict", picture, *SEA, "--registry", tmp_path / "none").out
    assert files_below(tmp_path) == before


def test_a_registry_of_another_base_model_is_refused(condu, picture):
    assert condu("init", "--base", "tiny").code == 0
    ran = condu("predict", picture, "--labels", "sea,fire", "--base", "mini")
    assert ran.code == 2
    assert "belongs to base model tiny, not mini" in ran.err
    assert "Omit --base" in ran.err


@pytest.mark.usefixtures("learned")
def test_a_registry_with_tasks_takes_its_own_base_model_only(condu, picture):
    assert condu("predict", picture, *SEA).err == ""
    assert condu("predict", picture, "--base", "mini").code == 2


@pytest.mark.parametrize("args", [(), ("--base", "tiny"), ("--task", "warm", "--labels", "a,b")])
def test_without_labels_the_error_stays_and_names_them(condu, picture, args):
    ran = condu("predict", picture, *args)
    assert ran.code == 10
    assert "error: there is no registry at" in ran.err
    assert "condu init" in ran.err
    assert "--labels 'cat,dog'" in ran.err
    assert condu("init", "--base", "tiny").code == 0
    empty = condu("predict", picture, *args)
    assert empty.code == 4
    assert "holds no tasks yet" in empty.err
    assert "--labels 'cat,dog'" in empty.err


def test_other_commands_do_not_speak_of_labels(condu):
    assert "--labels" not in condu("log").err


def test_a_file_in_the_registrys_place_is_still_an_error(condu, picture):
    ran = condu("predict", picture, *SEA, "--registry", picture)
    assert ran.code == 10
    assert "is a file, not a registry" in ran.err


def test_a_rule_for_one_experts_own_classes_is_still_refused(condu, picture):
    assert condu("predict", picture, *SEA, "--rule", "own").code == 2


# Pictures of no learned task


@pytest.fixture
def noise(tmp_path) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


@pytest.mark.usefixtures("learned")
def test_a_picture_like_nothing_learned_is_printed_as_unknown(condu, picture, noise):
    ran = condu("predict", picture, noise, "--threshold", "0.2")
    known, unknown = ran.out.splitlines()
    assert "unknown" not in known
    assert unknown.startswith(f"{noise}: unknown  [nearest: warm (similarity ")
    assert ran.err == ""


@pytest.mark.usefixtures("learned")
def test_json_marks_it_and_keeps_the_label_a_text(condu, picture, noise):
    ran = condu("predict", picture, noise, "--threshold", "0.2", "--json")
    known, unknown = (json.loads(line) for line in ran.out.splitlines())
    assert (known["unknown"], unknown["unknown"]) == (False, True)
    assert unknown["label"] in {"blue", "red"}
    assert record(condu("predict", noise, "--json"))["unknown"] is False


@pytest.mark.usefixtures("learned")
def test_csv_has_unknown_for_a_label_and_no_task(condu, noise):
    _, row = condu("predict", noise, "--threshold", "0.2", "--csv").out.splitlines()
    assert row.split(",")[1:5] == ["unknown", "", "", "warm"]


@pytest.mark.usefixtures("learned")
def test_tasks_that_cannot_tell_are_named(condu, noise):
    ran = condu("predict", noise, "--threshold", "0.01")
    assert "no picture of warm will be called unknown" in ran.err
    assert ": unknown" not in ran.out


def test_a_threshold_out_of_range_or_with_labels_is_refused(condu, picture):
    assert "for instance --threshold" in condu("predict", picture, "--threshold", "5").err.lower()
    assert condu("predict", picture, *SEA, "--threshold", "0.1").code == 2
