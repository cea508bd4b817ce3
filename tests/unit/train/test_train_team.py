"""Two real processes training together match one."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from condu_cli.backbone.base_models import load_base
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.sources.folders import read_folder
from condu_cli.train import launching
from condu_cli.train.finetune import Hooks, TrainingData, finetune
from condu_cli.train.objective import Objective
from condu_cli.train.recipe import Recipe
from condu_cli.train.team import SOLO, make_team, sum_gradients

pytestmark = pytest.mark.slow

PROCESSES = 2
PATIENCE = 600  # seconds
RECIPE = Recipe(1, 1e-3, image_size=32)
NAMES = {"three prompts": ("cat", "dog", "aeroplane"), "one prompt": ("cat", "cat")}
"""With one prompt the second process has nothing to encode."""

MEMBER = """
import os, sys
from pathlib import Path

import torch

from condu_cli.train.team import make_team, sum_gradients
from test_train_team import NAMES, batch, curve, gradients_of, parameters

team = make_team("cpu")
found = {"rank": team.rank, "size": team.size, "device": team.device}
found["sum"] = team.sum(torch.tensor([1.0, 10.0]) * (team.rank + 1))
found["scalar"] = team.sum(torch.tensor(team.rank + 0.5))
found["shared"] = team.share({"from": team.rank, "names": [os.fspath(Path("a")), "b"]})

mine = parameters()
mine[0].grad = torch.full((2, 3), team.rank + 1.0)
if team.rank:
    mine[1].grad = torch.tensor([5.0])
sum_gradients(team, mine)
found["gradients"] = [p.grad for p in mine]

for kind, names in NAMES.items():
    pixels, labels = batch(names)
    part = pixels[team.rank :: team.size], labels[team.rank :: team.size]
    found[kind] = gradients_of(team, names, part, len(labels))
found["curve"] = curve(team, Path(sys.argv[1]) / "pictures")
torch.save(found, Path(sys.argv[1]) / f"{team.rank}.pt")
team.end()
"""


def parameters():
    """Only one process has a gradient for the second parameter, none has one for the third."""
    shapes = ((2, 3), (1,), (4,))
    return [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]


def batch(names):
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return pixels, torch.arange(5) % len(names)


def gradients_of(team, names, part, batch_size):
    """Return loss, gradients and correct answers, over the pictures of all processes."""
    model = load_base("tiny").training_copy()
    objective = Objective(model, names, RECIPE, team)
    loss = objective.accumulate([part], batch_size)
    named = model.trainable_parameters()
    sum_gradients(team, list(named.values()))
    gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
    right = objective.measure([part]).right.sum()
    return {"loss": loss, "gradients": gradients, "right": float(team.sum(right.float()))}


def curve(team, root):
    """Return the loss of every iteration of a short training."""
    losses = []
    data = TrainingData(PictureSet(read_folder(root).train), ("blue", "red"))
    recipe = replace(RECIPE, iterations=6, learning_rate=1e-4, batch_size=5, accumulation=2)
    hooks = Hooks(on_step=lambda step: losses.append(step.loss))
    finetune(load_base("tiny").training_copy(), data, recipe, hooks, team=team)
    return losses


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_pictures):
    root = tmp_path_factory.mktemp("team")
    make_pictures(root / "pictures", per_class=5)
    return root


@pytest.fixture(scope="module")
def members(folder, request):
    """Return each process's results, by rank."""
    (folder / "member.py").write_text(MEMBER)
    port = launching._free_port()
    running = [start(folder, rank, port, request.path.parent) for rank in range(PROCESSES)]
    said = [process.communicate(timeout=PATIENCE)[0] for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES, said
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


def start(folder, rank, port, tests):
    environment = launching._environment(rank, PROCESSES, port, cpu=True)
    return subprocess.Popen(
        [sys.executable, str(folder / "member.py"), str(folder)],
        env={**environment, "PYTHONPATH": str(tests)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_every_process_knows_its_rank(members):
    assert [(m["rank"], m["size"]) for m in members] == [(0, PROCESSES), (1, PROCESSES)]
    assert {torch.device(member["device"]).type for member in members} == {"cpu"}


def test_every_process_gets_the_sum(members):
    for member in members:
        assert member["sum"].tolist() == [3.0, 30.0]
        assert member["scalar"].item() == 2.0


def test_every_process_gets_what_the_first_one_shares(members):
    assert [m["shared"] for m in members] == [{"from": 0, "names": ["a", "b"]}] * PROCESSES


def test_gradients_are_summed_also_where_a_process_has_none(members):
    for member in members:
        first, second, third = member["gradients"]
        assert torch.equal(first, torch.full((2, 3), 3.0))
        assert second.tolist() == [5.0]
        assert third.tolist() == [0.0] * 4


@pytest.mark.parametrize("kind", NAMES)
def test_loss_and_gradients_are_those_of_one_process(members, kind):
    pixels, labels = batch(NAMES[kind])
    alone = gradients_of(SOLO, NAMES[kind], (pixels, labels), len(labels))
    for member in members:
        found = member[kind]
        assert found["loss"].item() == pytest.approx(alone["loss"].item(), abs=1e-5)
        assert found["right"] == alone["right"]
        for name, gradient in found["gradients"].items():
            expected = alone["gradients"].get(name, torch.zeros_like(gradient))
            assert torch.allclose(gradient, expected, atol=1e-5), name
        assert alone["gradients"].keys() <= found["gradients"].keys()


@pytest.mark.parametrize("kind", NAMES)
def test_all_have_the_same_gradients_bit_for_bit(members, kind):
    """Otherwise their weights would diverge."""
    ours, theirs = (member[kind]["gradients"] for member in members)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_loss_takes_the_course_that_it_takes_in_one_process(members, folder):
    alone = curve(SOLO, folder / "pictures")
    assert len(alone) == 6
    for member in members:
        assert member["curve"] == pytest.approx(alone, abs=1e-4)


def test_without_a_launcher_the_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    team = make_team("cpu")
    assert team is SOLO
    parameter = torch.nn.Parameter(torch.zeros(2))
    sum_gradients(team, [parameter])
    assert parameter.grad is None
    assert (team.sum(torch.tensor(2.0)).item(), team.share("x")) == (2.0, "x")


def test_summed_gradients_have_their_parameters_memory_layout():
    # Fused optimizers pair numbers by their memory address.
    class Echo:
        size = 2

        def sum(self, tensor):
            return tensor

    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    layer(torch.randn(2, 3, 8, 8)).square().sum().backward()
    expected = layer.weight.grad.clone()
    sum_gradients(Echo(), list(layer.parameters()))
    assert torch.equal(layer.weight.grad, expected)
    assert layer.weight.grad.stride() == layer.weight.stride()
