"""`init`: choices that a registry never changes."""

import json
from itertools import product

import pytest

CHOICES = [
    ((), {"dtype": "float32", "rescaler": "row"}),
    (("--dtype", "bfloat16"), {"dtype": "bfloat16", "rescaler": "row"}),
    (("--dtype", "int8", "--rescaler", "tensor"), {"dtype": "int8", "rescaler": "tensor"}),
    (("--compat", "paper"), {"dtype": "float32", "rescaler": "global"}),
    (("--compat", "paper", "--rescaler", "global"), {"dtype": "float32", "rescaler": "global"}),
]


@pytest.mark.parametrize(("options", "kept"), CHOICES)
def test_init_keeps_what_was_chosen(condu, options, kept):
    ran = condu("init", "--base", "tiny", *options, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["codec_options"] == kept


def test_init_says_what_was_chosen(condu):
    ran = condu("init", "--base", "tiny", "--dtype", "int8")
    assert "unified delta in int8, rescalers: row" in ran.out


def test_the_papers_rescaler_and_another_one_contradict_each_other(condu, tmp_path):
    ran = condu("init", "--base", "tiny", "--compat", "paper", "--rescaler", "row")
    assert ran.code == 2
    assert "--compat paper means --rescaler global, not row" in ran.err
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize("option", [("--dtype", "int4"), ("--rescaler", "column")])
def test_an_unknown_choice_is_refused(condu, option):
    ran = condu("init", "--base", "tiny", *option)
    assert ran.code == 2
    assert option[1] in ran.err


QUICK = {("bfloat16", "global"), ("bfloat16", "tensor"), ("int8", "row")}
"""Each choice once; other combinations are marked thorough."""


@pytest.mark.parametrize(
    ("dtype", "rescaler"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.thorough)
        for pair in product(("bfloat16", "int8"), ("global", "tensor", "row"))
    ],
)
def test_every_choice_learns_and_predicts(condu, colours, dtype, rescaler):
    condu("init", "--base", "tiny", "--dtype", dtype, "--rescaler", rescaler)
    for task in ("warm", "again"):
        ran = condu("learn", "--task", task, "--data", colours, "--iterations", 2)
        assert ran.code == 0, ran.err
    picture = next(colours.glob("**/*.png"), None) or next(colours.glob("**/*.jpg"))
    answers = [
        json.loads(condu("predict", picture, "--task", task, "--json").out.splitlines()[0])
        for task in ("warm", "again")
    ]
    assert {answer["task"] for answer in answers} == {"warm", "again"}
    tasks = json.loads(condu("ls", "--json").out)
    assert all(0 < task["mask_density"] <= 1 for task in tasks)


@pytest.mark.parametrize("train", ["image", "text"])
def test_one_tower_has_fewer_parameters_than_the_whole_model(condu, tmp_path, train):
    counts = []
    for value in ("whole", train):
        path = tmp_path / value
        ran = condu("init", "--base", "tiny", "--train", value, "--registry", path, "--json")
        assert ran.code == 0, ran.err
        counts.append(json.loads(ran.out)["parameters"])
    assert 0 < counts[1] < counts[0]


def test_an_unknown_tower_is_refused(condu):
    ran = condu("init", "--base", "tiny", "--train", "nothing")
    assert ran.code == 2
    assert "nothing" in ran.err
