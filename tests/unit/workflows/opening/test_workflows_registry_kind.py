"""A registry is for one base model, method and set of parameters."""

from dataclasses import replace

import pytest
from safetensors.torch import save_file

from condu_cli.backbone.base_models import load_base
from condu_cli.errors import BaseModelError, UsageError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.opening.workspace import Workspace, new_config


def test_the_registrys_base_model_needs_no_naming(registry_path, warm, planned):
    assert planned(registry_path, warm, task="third", base=None).base_id == "tiny"


def test_another_base_model_than_the_registrys_is_refused(registry_path, warm, planned):
    with pytest.raises(UsageError, match="belongs to base model tiny, not mini"):
        planned(registry_path, warm, task="third", base="mini")


def test_a_checkpoint_may_be_named_again_from_its_own_folder(
    tmp_path, warm, plants, learn, monkeypatch
):
    save_file(load_base("tiny").clip.state_dict(), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    registry = tmp_path / "named"
    learn(registry, "warm", warm, base="condu-tiny:w.safetensors")
    assert learn(registry, "plants", plants, base="condu-tiny:w.safetensors").tasks == 2


@pytest.fixture
def foreign(tmp_path):
    """A registry created with other weights under the same name."""
    config = new_config(load_base("tiny"))
    other = replace(config, base=replace(config.base, weights_sha256="0" * 64))
    return Registry.create(tmp_path / "foreign", other)


def test_other_weights_than_the_registrys_are_an_error(foreign, warm, planned):
    with pytest.raises(BaseModelError, match="with weights 000000") as caught:
        planned(foreign.path, warm)
    assert caught.value.exit_code == 13


def test_condu_base_may_name_the_same_weights_elsewhere(
    registry_path, tmp_path, monkeypatch, warm, planned
):
    state = load_base("tiny").clip.state_dict()
    save_file(state, tmp_path / "moved.safetensors")
    monkeypatch.setenv("CONDU_BASE", f"condu-tiny:{tmp_path / 'moved.safetensors'}")
    assert planned(registry_path, warm, task="third", base=None).recipe.image_size == 32


def test_condu_base_with_other_weights_is_an_error(registry_path, tmp_path, monkeypatch):
    state = {name: tensor.clone() for name, tensor in load_base("tiny").clip.state_dict().items()}
    state["visual.proj"][0, 0] += 1
    save_file(state, tmp_path / "changed.safetensors")
    monkeypatch.setenv("CONDU_BASE", f"condu-tiny:{tmp_path / 'changed.safetensors'}")
    with pytest.raises(BaseModelError, match="belongs to base model tiny with weights"):
        _ = Workspace(Registry.open(registry_path)).base


def test_a_new_registry_describes_the_base_model():
    base = load_base("tiny")
    config = new_config(base)
    assert config.base.weights_sha256 == base.info.weights_sha256
    assert [p.name for p in config.parameters] == list(base.trainable_parameters())
    assert config.parameter_count == sum(p.numel() for p in base.trainable_parameters().values())


@pytest.mark.parametrize(("train", "prefix"), [("image", True), ("text", False)])
def test_a_registry_may_train_one_tower_only(train, prefix):
    base = load_base("tiny")
    config = new_config(base, train=train)
    names = {p.name for p in config.parameters}
    assert names
    assert all(name.startswith("visual.") == prefix for name in names)
    assert names < set(base.trainable_parameters())


@pytest.mark.parametrize("train", ["image", "text"])
def test_a_registry_of_one_tower_learns_and_leaves_the_other_unchanged(path, warm, learn, train):
    base = load_base("tiny")
    registry = Registry.create(path, new_config(base, train=train))
    learn(path, "warm", warm, iterations=3, head_first=False)
    workspace = Workspace(registry)
    head = workspace.head()
    expert = workspace.expert(head, head.entry("warm")).clip.state_dict()
    original = base.clip.state_dict()
    trained = {p.name for p in registry.config.parameters}
    changed = {n for n in original if not bool((expert[n] == original[n]).all())}
    assert changed
    assert changed <= trained
