"""`condu tasks`: what is known by name, where it is looked for, and what to put there."""

import json
import subprocess
import sys

import made_sets
import pytest

from condu_cli.data.sources.known_tasks import known_tasks

KEYS = {
    "task", "title", "classes", "templates", "template", "data", "images", "bytes", "licence",
    "url", "folder", "path", "state", "downloadable", "needs",
}  # fmt: skip


def listed(condu, *args) -> dict[str, dict]:
    ran = condu("tasks", "--json", *args)
    assert (ran.code, ran.err) == (0, "")
    return {record["task"]: record for record in json.loads(ran.out)}


def shown(condu, *args) -> dict:
    ran = condu("tasks", "--json", *args)
    assert (ran.code, ran.err) == (0, "")
    return json.loads(ran.out)


def test_every_known_task_is_listed_with_the_same_fields(condu):
    records = listed(condu)
    assert list(records) == list(known_tasks())
    assert {frozenset(record) for record in records.values()} == {frozenset(KEYS)}


def test_without_a_data_root_nothing_is_there_but_what_is_embedded(condu):
    for record in listed(condu).values():
        embedded = known_tasks()[record["task"]].embedded
        assert record["state"] == ("embedded" if embedded else "not there")
        assert record["data"] == ("embedded" if embedded else None)
        assert record["path"] is None
    ran = condu("tasks")
    assert "--data-root DIR or CONDU_DATA" in ran.err
    assert "condu tasks TASK" in ran.err


@pytest.mark.parametrize("way", ["option", "variable"])
def test_what_is_below_the_data_root_is_found(condu, tmp_path, monkeypatch, way):
    root = tmp_path / "sets"
    made_sets.food101(root)
    made_sets.mnist(root)
    (root / "MNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    (root / "dtd" / "train" / "banded").mkdir(parents=True)
    if way == "variable":
        monkeypatch.setenv("CONDU_DATA", str(root))
    records = listed(condu, *(["--data-root", root] if way == "option" else []))
    states = {name: (record["state"], record["path"]) for name, record in records.items()}
    assert states["food101"] == ("there", str(root / "food-101"))
    assert states["mnist"] == ("incomplete", str(root / "MNIST"))
    assert states["dtd"] == ("there", str(root / "dtd"))
    assert states["sun397"] == ("not there", str(root / "SUN397"))
    assert records["food101"]["data"] == str(root / "food-101")
    assert records["mnist"]["data"] is records["sun397"]["data"] is None
    assert records["shapes"]["data"] == "embedded"


def test_people_see_classes_pictures_size_licence_and_state(condu, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    made_sets.eurosat(tmp_path)
    ran = condu("tasks", "--data-root", tmp_path)
    (row,) = [line for line in ran.out.splitlines() if line.strip().startswith("eurosat")]
    for part in ("EuroSAT", "10", "27,000", "94.3 MB", "MIT", "there"):
        assert part in row
    assert f"below {tmp_path}" in ran.err


def test_one_task_is_shown_with_everything(condu, tmp_path):
    record = shown(condu, "eurosat", "--data-root", tmp_path)
    assert record.keys() > KEYS
    assert len(record["class_names"]) == record["classes"] == 10
    assert len(record["all_templates"]) == record["templates"] == 3
    assert record["split"] == "random 80/20, seed 42, index file"
    assert (record["train_images"], record["test_images"]) == (21600, 5400)
    assert record["paper_recipe"] == {"lr_full": 1e-5, "lr_lora": 1.5e-4, "lr_lora_5shot": 3e-4}
    assert str(tmp_path / "eurosat") in record["needs"][0]


@pytest.mark.parametrize("task", known_tasks())
def test_people_read_everything_about_one_task(condu, tmp_path, task):
    known = known_tasks()[task]
    ran = condu("tasks", task, "--data-root", tmp_path)
    assert ran.code == 0
    for part in (task, known.title, known.licence, *known.templates):
        assert part in ran.out
    if known.public is not None:
        assert known.public.url in ran.out
        assert str(tmp_path / known.public.folder) in ran.out
        assert known.public.split in ran.out
        assert ("--download" in ran.err) is known.public.downloadable


def test_an_unknown_task_is_an_error_that_names_the_known_ones(condu):
    ran = condu("tasks", "nothing")
    assert (ran.code, ran.out) == (4, "")
    assert "'nothing' is not a known task" in ran.err
    assert "eurosat" in ran.err


def test_the_list_needs_neither_torch_nor_numpy(tmp_path):
    code = (
        "import sys; from condu_cli.main import main\n"
        "try: main(['tasks', '--data-root', sys.argv[1]])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'torchvision', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ran.stderr.splitlines()[-1] == "set()"
