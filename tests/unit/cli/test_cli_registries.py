"""`init`: choices that a registry never changes."""

import json
from itertools import product

import pytest

from condu_cli.cli.registries import TRIM
from condu_cli.core.codecs.condu.codec import ConduCodec

DEFAULT = {
    "dtype": "float32",
    "rescaler": "row",
    "exact": "vectors,depthwise,visual.proj",
    "trim": TRIM,
}
PAPER = {"dtype": "float32", "rescaler": "global", "exact": "", "trim": "0"}
CHOICES = [
    ((), DEFAULT),
    (("--dtype", "bfloat16"), {**DEFAULT, "dtype": "bfloat16"}),
    (
        ("--dtype", "int8", "--rescaler", "tensor"),
        {**DEFAULT, "dtype": "int8", "rescaler": "tensor"},
    ),
    (("--exact", "none", "--trim", "0"), {**DEFAULT, "exact": "", "trim": "0"}),
    (("--exact", "", "--trim", "0.250"), {**DEFAULT, "exact": "", "trim": "0.25"}),
    (("--exact", "vectors, visual.proj"), {**DEFAULT, "exact": "vectors,visual.proj"}),
    (("--train", "text"), {**DEFAULT, "exact": "vectors,depthwise"}),
    (("--method", "lora"), {**DEFAULT, "exact": "", "trim": "0"}),
    (("--method", "lora", "--trim", "0.5"), {**DEFAULT, "exact": ""}),
    (("--compat", "paper"), PAPER),
    (("--compat", "paper", "--rescaler", "global"), PAPER),
    (("--compat", "paper", "--exact", "none", "--trim", "0"), PAPER),
    (("--compat", "paper", "--dtype", "int8"), {**PAPER, "dtype": "int8"}),
]


@pytest.mark.parametrize(("options", "kept"), CHOICES)
def test_init_keeps_what_was_chosen(condu, options, kept):
    ran = condu("init", "--base", "tiny", *options, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["codec_options"] == kept


def test_init_says_what_was_chosen(condu, tmp_path):
    ran = condu("init", "--base", "tiny", "--dtype", "int8")
    assert "unified delta in int8, rescalers: row" in ran.out
    assert "exact: vectors, depthwise, visual.proj, trimmed: 50.0 %" in ran.out
    ran = condu("init", "--base", "tiny", "--compat", "paper", "--registry", tmp_path / "paper")
    assert "rescalers: global, exact: nothing, trimmed: 0.0 %" in ran.out


def test_the_help_names_the_share_that_is_trimmed():
    assert ConduCodec.defaults["trim"] == TRIM


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        (("--rescaler", "row"), "--rescaler global, not row"),
        (("--exact", "vectors"), "--exact none, not vectors"),
        (("--trim", "0.5"), "--trim 0, not 0.5"),
    ],
)
def test_the_papers_choices_and_others_contradict_each_other(condu, tmp_path, option, wanted):
    ran = condu("init", "--base", "tiny", "--compat", "paper", *option)
    assert ran.code == 2
    assert f"--compat paper means {wanted}" in ran.err
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_only_a_registry_like_the_papers_records_that(condu, tmp_path, method):
    init = ("init", "--base", "tiny", "--method", method, "--json")
    ran = condu(*init, "--compat", "paper", "--registry", tmp_path / "paper")
    assert ran.code == 0, ran.err
    paper = json.loads(ran.out)
    ran = condu(*init, "--registry", tmp_path / "usual")
    assert ran.code == 0, ran.err
    usual = json.loads(ran.out)
    assert paper["method_options"] == {**usual["method_options"], "compat": "paper"}
    assert "compat" not in usual["method_options"]


@pytest.mark.parametrize("words", ["biases", "vectors,,depthwise,visual", "visual.Proj"])
def test_an_unknown_parameter_to_keep_exactly_is_refused(condu, tmp_path, words):
    ran = condu("init", "--base", "tiny", "--exact", words)
    assert ran.code == 2
    assert "nor the name of a parameter" in ran.err
    assert "--exact takes vectors, depthwise and names of parameters" in ran.err
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize("share", ["1", "1.5", "-0.1", "half"])
def test_a_share_to_trim_that_is_none_is_refused(condu, tmp_path, share):
    ran = condu("init", "--base", "tiny", f"--trim={share}")
    assert ran.code == 2
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
