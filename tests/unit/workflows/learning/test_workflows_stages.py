"""The stages of learning: a head, tuning from there, and the choice, folded or beside."""

import numpy as np
import pytest
import torch

from condu_cli.errors import UsageError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.learning.planning import LearnRequest
from condu_cli.workflows.opening.paradigms import LoraRequest
from condu_cli.workflows.opening.workspace import Workspace, new_config


def made(base, path, **options):
    """An empty registry of the given kind."""
    Registry.create(path, new_config(base, **options))
    return path


def entry_of(path, task="warm"):
    return Registry.open(path).head().entry(task)


@pytest.fixture
def tiny():
    from condu_cli.backbone.base_models import load_base

    return load_base("tiny")


def test_a_quick_expert_is_the_base_model_with_a_head_in_its_projection(path, warm, learn):
    summary = learn(path, "warm", warm, quick=True)
    record = entry_of(path).expert.training
    assert record["quick"] is True
    assert record["stages"]["form"] == "folded"
    assert record["stages"]["head"] > 0.9
    assert (record["train_images"], record["validation_images"]) == (16, 0)
    assert (summary.iterations, summary.final_loss) == (0, None)
    assert "points" not in record["stages"]
    workspace = Workspace(Registry.open(path))
    session = workspace.head()
    expert = workspace.expert(session, session.entry("warm"))
    base = workspace.base.model_parameters()
    changed = {n for n, p in expert.model_parameters().items() if not torch.equal(p, base[n])}
    assert changed == {"visual.proj"}


def test_tuning_is_judged_on_held_out_pictures_and_recorded(path, warm, learn):
    summary = learn(path, "warm", warm)
    stages = summary.stages
    assert stages["held_out_images"] == 3
    alphas = [p["alpha"] for p in stages["points"]]
    assert alphas in ([0.0, 0.5, 1.0], [0.0, 0.25, 0.5])
    assert stages["kept"] in alphas
    assert stages == entry_of(path).expert.training["stages"]


def test_without_held_out_pictures_the_tuned_expert_is_kept_if_asked_for(path, warm, learn):
    summary = learn(path, "warm", warm, validation_share=0.0, iterations=2)
    assert (summary.iterations, summary.stages["kept"]) == (2, 1.0)
    assert "points" not in summary.stages


def test_one_picture_of_each_class_is_a_head(path, warm, learn):
    """Nothing can be held out, so nothing could tell whether tuning helps."""
    summary = learn(path, "warm", warm, shots=1)
    assert summary.iterations == 0
    assert summary.stages["kept"] == 0.0


@pytest.mark.parametrize(
    "options",
    [{"method": "lora", "lora": LoraRequest()}, {"train": "text"}],
    ids=["lora", "text"],
)
def test_where_the_projection_is_not_trained_the_head_lies_beside(tiny, path, warm, learn, options):
    path.parent.mkdir()
    summary = learn(made(tiny, path, **options), "warm", warm, quick=True)
    assert summary.stages["form"] == "beside"
    registry = Registry.open(path)
    workspace = Workspace(registry)
    session = workspace.head()
    head = workspace.head_beside(session, session.entry("warm"))
    assert head["weights"].shape[0] == head["bias"].shape[0] == 2


def test_lora_is_tuned_with_the_head_beside_it(tiny, path, warm, learn):
    path.parent.mkdir()
    made(tiny, path, method="lora", lora=LoraRequest())
    summary = learn(path, "warm", warm, iterations=3)
    assert summary.stages["form"] == "beside"
    assert len(summary.stages["points"]) == 3


def test_more_classes_than_dimensions_get_a_head_beside(path, tiny, monkeypatch, warm, learn):
    from condu_cli.workflows.learning import starting

    monkeypatch.setattr(starting, "AGREEMENT", 1.1)  # as if folding lost something
    summary = learn(path, "warm", warm, quick=True)
    assert summary.stages["form"] == "beside"


def test_a_registry_that_follows_the_paper_has_no_heads(tiny, path, warm, learn, learner):
    path.parent.mkdir()
    made(tiny, path, compat="paper")
    summary = learn(path, "warm", warm, iterations=2)
    assert summary.stages is None
    record = entry_of(path).expert.training
    assert (record["train_images"], record["validation_images"]) == (16, 0)
    with pytest.raises(UsageError, match="quick stops after the head"):
        learner(path, "other", warm, quick=True)


def test_what_an_older_version_saved_has_no_head(warm):
    record = LearnRequest(task="warm", data=warm).as_record()
    del record["head_first"]
    assert LearnRequest.from_record(record).head_first is False


def test_the_same_pictures_give_the_same_expert(tmp_path, warm, learn):
    heads = []
    for name in ("a", "b"):
        learn(tmp_path / name, "warm", warm, iterations=2)
        heads.append(Registry.open(tmp_path / name).head())
    assert heads[0].shared == heads[1].shared
    assert heads[0].entry("warm").part == heads[1].entry("warm").part


def test_a_quick_expert_answers_its_own_pictures(path, warm, learn):
    from condu_cli.workflows.answering.evaluation import EvaluateRequest, evaluate

    learn(path, "warm", warm, quick=True)
    workspace = Workspace(Registry.open(path))
    found = evaluate(workspace, workspace.head(), EvaluateRequest(task="warm", data=warm))
    assert found.accuracy == 1.0


def test_an_expert_with_a_head_beside_it_answers_with_the_head(tiny, path, warm, learn):
    from condu_cli.workflows.answering.evaluation import EvaluateRequest, evaluate

    path.parent.mkdir()
    made(tiny, path, method="lora", lora=LoraRequest())
    learn(path, "warm", warm, quick=True)
    workspace = Workspace(Registry.open(path))
    session = workspace.head()
    found = evaluate(workspace, session, EvaluateRequest(task="warm", data=warm))
    assert found.accuracy == 1.0
    expert = workspace.expert(session, session.entry("warm"))
    base = workspace.base.expert_copy().trainable_parameters()
    for name, parameter in expert.trainable_parameters().items():
        assert np.array_equal(parameter.detach().numpy(), base[name].detach().numpy())
