"""How a base model's pictures are prepared: assumed, stated, recorded, exported and adopted."""

import json
import shutil

import pytest
from safetensors.torch import save_file

from condu_cli.backbone.base_models import load_base

GIVEN = ("--image-mean", "0.5,0.5,0.5", "--image-std", "0.25,0.25,0.25")
STATED = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


@pytest.fixture
def weights(tmp_path):
    """A local checkpoint, in a folder of its own."""
    folder = tmp_path / "local"
    folder.mkdir()
    file = folder / "weights.safetensors"
    save_file({n: t.clone() for n, t in load_base("tiny").clip.state_dict().items()}, file)
    return file


@pytest.fixture
def learn(condu, colours):
    def run(*options):
        ran = condu("learn", "--task", "warm", "--data", colours, "--quick", *options)
        assert ran.code == 0, ran.err
        return ran

    return run


@pytest.fixture
def answers(condu, colours):
    """What `predict` answers, to the last digit."""

    def run(*options):
        ran = condu("predict", colours, "--json", *options)
        assert ran.code == 0, ran.err
        return [json.loads(line)["probability"] for line in ran.out.splitlines()]

    return run


def state(weights, **prepared):
    config = {"preprocess_cfg": {**STATED, **prepared}, "model_cfg": {"embed_dim": 16}}
    embedding = load_base("tiny").encode_texts(["x"]).shape[1]
    config["model_cfg"]["embed_dim"] = embedding
    weights.with_name("open_clip_config.json").write_text(json.dumps(config))


def recorded(condu, *options):
    ran = condu("init", "--json", *options)
    assert ran.code == 0, ran.err
    return json.loads(ran.out)["base"]["preparation"], ran


def test_what_is_assumed_is_said(condu, weights, learn):
    found, ran = recorded(condu, "--base", f"condu-tiny:{weights}")
    assert "does not say how pictures are prepared: assuming mean 0.4815, 0.4578" in ran.err
    assert found["mean"] == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-3)
    assert "assuming" not in learn().err  # now it is recorded


@pytest.mark.parametrize("command", ["learn", "predict"])
def test_so_does_every_command_that_needs_no_init(condu, weights, colours, command):
    base = ("--base", f"condu-tiny:{weights}")
    options = {
        "learn": ("--task", "warm", "--data", colours, "--quick"),
        "predict": (colours, "--labels", "blue,red"),
    }
    ran = condu(command, *options[command], *base)
    assert ran.code == 0, ran.err
    assert "does not say how pictures are prepared" in ran.err
    assert "--image-mean" in ran.err


def test_it_is_stated_by_options_or_beside_the_file(condu, weights, tmp_path):
    base = ("--base", f"condu-tiny:{weights}")
    ways = ("--image-resize-mode", "squash", "--image-interpolation", "bicubic")
    by_hand, ran = recorded(condu, *base, *GIVEN, *ways)
    assert "assuming" not in ran.err
    _, ran = recorded(condu, *base, *GIVEN, "--registry", tmp_path / "partly")
    assert "(interpolation, resize_mode: like OpenAI's CLIP)" in ran.err
    state(weights)
    beside, ran = recorded(condu, *base, "--registry", tmp_path / "other")
    assert "assuming" not in ran.err
    assert by_hand == beside == STATED


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--image-mean", "0.5"), "mean must be three numbers"),
        (("--image-mean", "a,b,c"), "--image-mean is three numbers separated by commas"),
        (("--image-std", "1,0,1"), "std must be above 0"),
        (("--image-interpolation", "nearest"), "bicubic or bilinear, not 'nearest'"),
        (("--image-resize-mode", "longest"), "shortest or squash, not 'longest'"),
    ],
)
def test_options_that_make_no_sense_are_refused(condu, weights, tmp_path, options, said):
    ran = condu("init", "--base", f"condu-tiny:{weights}", *options)
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "registry").exists()


def test_weights_that_state_their_own_way_keep_it(condu, tmp_path):
    ran = condu("init", "--base", "tiny", *GIVEN)
    assert ran.code == 2
    assert "base model tiny has its own way of preparing pictures" in ran.err
    assert not (tmp_path / "registry").exists()


def test_answers_stay_the_same_wherever_the_weights_come_from(
    condu, weights, learn, answers, tmp_path, monkeypatch
):
    recorded(condu, "--base", f"condu-tiny:{weights}", *GIVEN)
    learn()
    before = answers()
    moved = tmp_path / "moved.safetensors"
    shutil.copy(weights, moved)
    monkeypatch.setenv("CONDU_BASE", f"condu-tiny:{moved}")
    assert answers() == before
    monkeypatch.setenv("CONDU_BASE", "tiny")  # the same weights, with a way of their own
    assert answers() == before
    monkeypatch.delenv("CONDU_BASE")
    state(weights, mean=[0.0, 0.0, 0.0])
    assert answers() == before


@pytest.mark.parametrize(
    "config",
    [
        {"model_cfg": {"embed_dim": 16, "quick_gelu": True}},
        {"model_cfg": {"embed_dim": 99}},
        {"preprocess_cfg": {"resize_mode": "longest"}},
    ],
)
def test_nothing_beside_the_weights_locks_a_registry_up(condu, weights, learn, answers, config):
    """What it records comes first, and is all that counts."""
    recorded(condu, "--base", f"condu-tiny:{weights}")
    learn()
    before = answers()
    weights.with_name("open_clip_config.json").write_text(json.dumps(config))
    assert answers() == before


def test_the_way_changes_the_answers(condu, weights, learn, answers, tmp_path):
    """Otherwise the test above could not fail."""
    recorded(condu, "--base", f"condu-tiny:{weights}", *GIVEN)
    learn()
    learn("--base", f"condu-tiny:{weights}", "--registry", tmp_path / "other")
    assert answers() != answers("--registry", tmp_path / "other")


def test_an_exported_expert_is_imported_as_it_was_trained(condu, weights, learn, answers, tmp_path):
    recorded(condu, "--base", f"condu-tiny:{weights}", *GIVEN)
    learn()
    file, base = tmp_path / "warm.safetensors", ("--base", f"condu-tiny:{weights}")
    ran = condu("export", "--task", "warm", "-o", file)
    assert ran.code == 0, ran.err
    assert "image_mean=(0.5, 0.5, 0.5), image_std=(0.25, 0.25, 0.25)" in ran.out
    other = ("--registry", tmp_path / "other")
    ran = condu("import", "--task", "warm", "--weights", file, *base, *other)
    assert ran.code == 0, ran.err
    assert answers(*other) == pytest.approx(answers(), abs=1e-6)


def test_an_expert_of_another_way_is_refused(condu, weights, learn, tmp_path):
    recorded(condu, "--base", f"condu-tiny:{weights}", *GIVEN)
    learn()
    file, other = tmp_path / "warm.safetensors", ("--registry", tmp_path / "other")
    assert condu("export", "--task", "warm", "-o", file).code == 0
    recorded(condu, "--base", f"condu-tiny:{weights}", *other)
    ran = condu("import", "--task", "warm", "--weights", file, *other)
    assert ran.code == 13
    assert "mean of pictures 0.5, 0.5, 0.5, but condu-tiny" in ran.err


def test_condu_follows_its_own_line_for_an_exported_model(condu, weights, learn, tmp_path):
    recorded(condu, "--base", f"condu-tiny:{weights}", *GIVEN)
    learn()
    file = tmp_path / "base.safetensors"
    assert condu("export", "--base", "-o", file).code == 0
    found, ran = recorded(
        condu, "--base", f"condu-tiny:{file}", "--registry", tmp_path / "from_file"
    )
    assert "assuming" not in ran.err
    assert (found["mean"], found["std"]) == ([0.5] * 3, [0.25] * 3)


def test_an_archive_carries_it(condu, weights, learn, answers, tmp_path):
    recorded(condu, "--base", f"condu-tiny:{weights}", *GIVEN)
    learn()
    file, other = tmp_path / "all.condu", ("--registry", tmp_path / "other")
    assert condu("export", "-o", file).code == 0
    ran = condu("import", file, "--base", f"condu-tiny:{weights}", *other)
    assert ran.code == 0, ran.err
    assert answers(*other) == answers()
