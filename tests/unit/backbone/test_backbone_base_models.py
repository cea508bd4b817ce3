"""Base models by name: what names mean, and errors for invalid names."""

import json
from dataclasses import replace

import open_clip
import pytest
from safetensors.torch import save_file

from condu_cli.backbone import base_models
from condu_cli.backbone.base_models import (
    CATALOG,
    DEFAULT_BASE,
    load_base,
    load_recorded_base,
    split_base_id,
)
from condu_cli.backbone.models import open_clip_specs
from condu_cli.backbone.models.open_clip_models import load
from condu_cli.backbone.models.open_clip_specs import (
    OpenClipSpec,
    openai_preparation,
    resolve,
)
from condu_cli.base_identity import BaseIdentity
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import BaseModelError, UsageError
from condu_cli.preprocessing import Preparation


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """No cached model from another test, and none left for the next."""
    monkeypatch.delenv("CONDU_BASE", raising=False)
    load_base.cache_clear()
    yield
    load_base.cache_clear()


@pytest.fixture
def checkpoint(tmp_path):
    """The weights of `tiny` as a user might have saved them."""
    path = tmp_path / "weights.safetensors"
    save_file(load_base("tiny").clip.state_dict(), path)
    return path


# Names


def test_the_default_is_embedded_and_needs_no_network():
    assert next(e for e in CATALOG if e.id == DEFAULT_BASE).needs_network is False


def test_every_entry_of_the_catalog_but_mini_is_a_model_that_open_clip_knows():
    for entry in CATALOG:
        if entry.id != "mini":
            spec = resolve(*split_base_id(entry.id))
            assert f"{spec.architecture}:{spec.pretrained}" == entry.id
            assert entry.needs_network


@pytest.mark.parametrize(
    ("base_id", "parts"),
    [
        ("ViT-B-16:openai", ("ViT-B-16", "openai")),
        ("ViT-B-16:/a/b:c.pt", ("ViT-B-16", "/a/b:c.pt")),
        ("hf-hub:org/model", ("hf-hub:org/model", "")),
        ("hf-hub:org/model:/a/w.pt", ("hf-hub:org/model", "/a/w.pt")),
        ("tiny", ("condu-tiny", "")),
    ],
)
def test_a_name_is_an_architecture_and_its_weights(base_id, parts):
    assert split_base_id(base_id) == parts


@pytest.mark.parametrize(
    "base_id", ["", "ViT-B-16", "ViT-B-16:", ":openai", ":", "hf-hub:org/model:tag"]
)
def test_a_name_without_both_is_a_usage_error(base_id):
    with pytest.raises(UsageError, match="is not the name of a base model") as caught:
        load_base(base_id)
    assert caught.value.exit_code == 2
    assert "condu bases" in hint_of(caught.value)


def test_an_unknown_architecture_is_a_usage_error():
    with pytest.raises(UsageError, match="unknown base model 'ViT-Z-99'"):
        load_base("ViT-Z-99:openai")


def test_an_unknown_tag_names_those_that_exist():
    with pytest.raises(UsageError, match="'nonsense' is neither") as caught:
        load_base("ViT-B-16:nonsense")
    assert "openai" in hint_of(caught.value)
    assert "laion2b_s34b_b88k" in hint_of(caught.value)


# Activations


def test_openai_weights_bring_quick_gelu_with_them():
    assert resolve("ViT-B-16", "openai") == OpenClipSpec("ViT-B-16", "openai", quick_gelu=True)


def test_laion_weights_do_not():
    assert resolve("ViT-B-32", "laion2b_s34b_b79k").quick_gelu is False


def test_a_quickgelu_name_with_plain_weights_is_refused(monkeypatch):
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"quick_gelu": False})
    with pytest.raises(UsageError, match="uses QuickGELU") as caught:
        resolve("ViT-B-32-quickgelu", "laion2b_s34b_b79k")
    assert "ViT-B-32:laion2b_s34b_b79k" in hint_of(caught.value)


@pytest.mark.parametrize(("name", "quick"), [("ViT-B-32", False), ("ViT-B-32-quickgelu", True)])
def test_for_a_local_checkpoint_the_architectures_name_decides(name, quick):
    assert resolve(name, "/somewhere/weights.pt").quick_gelu is quick


@pytest.mark.parametrize(("quick", "activation"), [(False, "gelu"), (True, "quick_gelu")])
def test_the_activation_recorded_is_the_one_in_the_model(quick, activation):
    resolve("condu-tiny", "")  # makes the architecture known
    model = load("tiny", OpenClipSpec("condu-tiny", "", quick_gelu=quick))
    assert model.info.activation == activation


# Local checkpoints


def test_the_weights_of_a_local_checkpoint_are_those_that_were_saved(checkpoint):
    saved = load_base("tiny").info
    loaded = load_base(f"condu-tiny:{checkpoint}").info
    assert loaded.weights_sha256 == saved.weights_sha256
    assert loaded.id == f"condu-tiny:{checkpoint}"
    assert loaded.pretrained == str(checkpoint)


def test_a_checkpoint_is_remembered_by_its_whole_path(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    named = load_base(f"condu-tiny:{checkpoint.name}")
    assert named.info.id == f"condu-tiny:{checkpoint.resolve()}"


def test_a_missing_checkpoint_is_named(tmp_path):
    path = tmp_path / "gone.safetensors"
    with pytest.raises(BaseModelError, match="no such file") as caught:
        load_base(f"condu-tiny:{path}")
    assert caught.value.exit_code == 13
    assert str(path) in caught.value.message
    assert "CONDU_BASE" in hint_of(caught.value)


def test_a_checkpoint_of_another_shape_is_named(tmp_path, checkpoint):
    other = tmp_path / "other.safetensors"
    state = {n: t.clone() for n, t in load_base("tiny").clip.state_dict().items()}
    state["visual.proj"] = state["visual.proj"][:, :3].contiguous()
    save_file(state, other)
    with pytest.raises(BaseModelError, match="does not load as condu-tiny") as caught:
        load_base(f"condu-tiny:{other}")
    assert str(other) in caught.value.message


def test_a_file_that_is_not_a_checkpoint_is_named(tmp_path):
    path = tmp_path / "text.safetensors"
    path.write_bytes(b"\x00this is not a checkpoint")
    with pytest.raises(BaseModelError, match="does not load as condu-tiny"):
        load_base(f"condu-tiny:{path}")


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    import torch

    path = tmp_path / "trap.pt"
    torch.save({"state_dict": Trap()}, path)
    with pytest.raises(BaseModelError, match="does not load"):
        load_base(f"condu-tiny:{path}")
    assert not (tmp_path / "sprung").exists()


HALF = (0.5, 0.5, 0.5)
RECORDED = BaseIdentity("ViT-B-16:openai", "ViT-B-16", "openai", "quick_gelu", "", 224)


def test_condu_base_names_another_place_for_a_registrys_base_model(checkpoint, monkeypatch):
    monkeypatch.setenv("CONDU_BASE", f"condu-tiny:{checkpoint}")
    assert load_recorded_base(RECORDED).info.architecture == "condu-tiny"


def test_pictures_are_prepared_as_the_registry_records(monkeypatch):
    monkeypatch.setenv("CONDU_BASE", "tiny")
    recorded = replace(RECORDED, preparation=Preparation(HALF, HALF, "bilinear", "squash"))
    base = load_recorded_base(recorded)
    assert base.preprocessing.preparation == base.info.preparation == recorded.preparation
    assert load_base("tiny").info.preparation != recorded.preparation


def test_a_registrys_base_model_is_the_one_that_is_loaded_already():
    """`learn` of several tasks creates a registry with the first and opens it with the second."""
    fresh = load_base("tiny", "cpu")
    assert load_recorded_base(fresh.info).clip is fresh.clip
    assert load_base.cache_info().misses == 1


def test_an_older_registry_keeps_what_its_weights_had_then(checkpoint, monkeypatch):
    """Pretrained weights had their own way; a checkpoint had OpenAI's, whatever is beside it."""
    monkeypatch.setenv("CONDU_BASE", f"condu-tiny:{checkpoint}")
    prepared = {"mean": HALF, "std": HALF}
    beside = checkpoint.with_name("open_clip_config.json")
    beside.write_text(json.dumps({"preprocess_cfg": prepared}))
    assert load_base(f"condu-tiny:{checkpoint}").preprocessing.preparation.mean == HALF
    for architecture, pretrained, mean in (
        ("ViT-L-14", "laion2b_s32b_b82k", HALF),
        ("ViT-L-14", "/weights.safetensors", openai_preparation().mean),
    ):
        named = f"{architecture}:{pretrained}"
        recorded = BaseIdentity(named, architecture, pretrained, "gelu", "", 224)
        assert load_recorded_base(recorded).preprocessing.preparation.mean == mean
    for unchanged in ("tiny", "mini", "hf-hub:org/model"):
        recorded = BaseIdentity(unchanged, unchanged, "", "gelu", "", 224)
        found = load_recorded_base(recorded).preprocessing.preparation
        assert found == openai_preparation()


@pytest.fixture
def hub(monkeypatch):
    """A hub that knows one configuration, that of `tiny` with other pictures, and no weights."""
    config = json.loads(open_clip_specs.TINY_CONFIG.read_text())
    answer = {"model_cfg": config, "preprocess_cfg": {"mean": HALF, "std": HALF}}
    monkeypatch.setattr(open_clip.factory, "_get_hf_config", lambda *_, **__: answer)


@pytest.mark.usefixtures("hub")
def test_an_architecture_of_the_hub_takes_a_local_checkpoint(checkpoint, monkeypatch):
    """What the line for an exported model of the hub does: its configuration, other weights."""
    monkeypatch.chdir(checkpoint.parent)
    base = load_base(f"hf-hub:org/model:{checkpoint.name}")
    assert base.info.id == f"hf-hub:org/model:{checkpoint}"
    assert base.info.weights_sha256 == load_base("tiny").info.weights_sha256
    assert base.preprocessing.preparation == Preparation(HALF, HALF)
    assert base.assumption is None
    line = base.how_to_load("x.safetensors")
    assert line.startswith('model = open_clip.create_model("hf-hub:org/model", load_weights=False)')


# Downloads


def test_a_download_that_fails_names_the_model_what_was_tried_and_both_ways_out(monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("the hub cannot be reached\nand many more lines")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(BaseModelError) as caught:
        load_base("ViT-B-16:openai")
    assert "base model 'ViT-B-16:openai'" in caught.value.message
    assert "could not download the weights 'openai'" in caught.value.message
    assert "the hub cannot be reached" in caught.value.message
    assert "\n" not in caught.value.message
    # OpenAI's weights need QuickGELU, which a local checkpoint does not record.
    assert "--base ViT-B-16-quickgelu:/path/to/weights.safetensors" in hint_of(caught.value)
    assert "--base mini" in hint_of(caught.value)


def test_logging_is_as_before_after_a_failed_download(monkeypatch):
    import logging

    monkeypatch.setattr(open_clip, "create_model", lambda *_a, **_k: 1 / 0)
    before = logging.root.manager.disable
    with pytest.raises(BaseModelError):
        load_base("ViT-B-16:openai")
    assert logging.root.manager.disable == before


def test_a_library_that_does_not_import_sends_to_the_doctor(monkeypatch):
    def broken(*_args):
        raise ImportError("operator torchvision::nms does not exist")

    monkeypatch.setattr(open_clip_specs, "resolve", broken)
    with pytest.raises(BaseModelError, match="torchvision::nms") as caught:
        load_base("ViT-B-16:openai")
    assert "condu doctor" in hint_of(caught.value)


def test_the_last_base_model_is_kept(monkeypatch):
    first = load_base("tiny")
    monkeypatch.setattr(base_models, "_load", lambda _: pytest.fail("loaded again"))
    assert load_base("tiny") is first
