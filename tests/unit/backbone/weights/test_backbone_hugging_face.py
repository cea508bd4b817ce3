"""Hugging Face's CLIPModel: the same answers after its names were turned into open_clip's."""

import json

import pytest
import torch

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.weights.checkpoints import Checkpoint
from condu_cli.backbone.weights.foreign_experts import expert_delta
from condu_cli.backbone.weights.hugging_face import open_clip_names, read_folder
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import BaseModelError, DataError, UsageError
from condu_cli.preprocessing import Preparation
from condu_cli.registry.repository import Registry
from condu_cli.workflows.transfers.importing import Importer, ImportRequest

HALF = [0.5, 0.5, 0.5]


def settings(**vision):
    """The sizes of `condu-tiny.json`."""
    from transformers import CLIPConfig

    shared = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_act": "gelu"}
    text = {"hidden_size": 16, "intermediate_size": 64, "max_position_embeddings": 24}
    image = {"hidden_size": 32, "intermediate_size": 128, "image_size": 32, "patch_size": 16}
    return CLIPConfig(
        text_config={**shared, **text, "vocab_size": 49408},
        vision_config={**shared, **image, **vision},
        projection_dim=16,
    )


@pytest.fixture(scope="module")
def theirs():
    """A CLIPModel of the same shape as `tiny`, near it in no way."""
    from transformers import CLIPModel

    torch.manual_seed(0)
    return CLIPModel(settings()).eval()


@pytest.fixture(scope="module")
def near(theirs):
    """The same model with weights that were fine-tuned from `tiny`'s."""
    import copy

    model = copy.deepcopy(theirs)
    ours = load_base("tiny").library_model.state_dict()
    ours = {name: tensor * 1.01 for name, tensor in ours.items()}
    state = model.state_dict()
    for name in state:
        state[name].copy_(hugging_face_tensor(name, ours))
    return model


def hugging_face_tensor(name, ours):
    """What `open_clip_names` undoes, for one tensor."""
    one = {name: torch.zeros(1, 1)}
    if "_proj." in name and "self_attn" in name and "out_proj" not in name:
        part = name.split("self_attn.")[1][0]
        beside = {name.replace(f".{part}_proj", f".{q}_proj"): torch.zeros(1) for q in "qkv"}
        (joined,) = open_clip_names(beside)
        return ours[joined].chunk(3)["qkv".index(part)]
    (renamed,) = open_clip_names({**one, "vision_model.x": torch.zeros(1)}).keys() - {
        "vision_model.x"
    }
    tensor = ours[renamed]
    return tensor.T if name in ("visual_projection.weight", "text_projection.weight") else tensor


@pytest.mark.parametrize("prefix", ["", "model.", "clip.model."])
def test_a_converted_model_computes_the_same(theirs, prefix):
    state = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    ours = load_base("tiny").expert_copy()
    missing, unexpected = ours.library_model.load_state_dict(open_clip_names(state), strict=False)
    assert (missing, unexpected) == (["attn_mask"], []) or (missing, unexpected) == ([], [])
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ids = ours.tokenize(["a photo of a cat.", "dog"])["ids"]
    with torch.inference_mode():
        image = theirs.visual_projection(theirs.vision_model(pixels).pooler_output)
        states = theirs.text_model(ids).last_hidden_state
        text = theirs.text_projection(states[torch.arange(2), ids.argmax(dim=-1)])
        assert torch.allclose(ours.clip.encode_image(pixels), image, atol=1e-5)
        assert torch.allclose(ours.clip.encode_text(ids), text, atol=1e-5)


def test_other_names_stay_as_they_are():
    plain = {"visual.proj": torch.ones(2), "text_projection": torch.ones(2)}
    assert open_clip_names(plain) is plain


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_is_an_expert(near, tmp_path, shards):
    size = sum(t.numel() * 4 for t in near.state_dict().values())
    near.save_pretrained(tmp_path, max_shard_size=size + 1 if shards == 1 else size // 3)
    found = read_folder(tmp_path)
    assert len(found.files) == 1 if shards == 1 else len(found.files) > 1
    expert = expert_delta(load_base("tiny"), found)
    assert expert.distance == pytest.approx(0.01, rel=1e-3)
    assert expert.warnings == () or all("rounded" in w or "own" in w for w in expert.warnings)


def test_a_folder_becomes_a_task(near, tmp_path):
    near.save_pretrained(tmp_path / "theirs", max_shard_size="300KB")
    names = tmp_path / "names.txt"
    names.write_text("blue\nred\n")
    request = ImportRequest("cars", tmp_path / "theirs", class_names=names, base="tiny")
    summary = Importer(tmp_path / "registry", request).plan().run()
    assert (summary.task, summary.imported_from, summary.classes) == ("cars", "theirs", 2)
    (entry,) = Registry.open(tmp_path / "registry").head().entries
    assert len(entry.expert.training["weights_sha256"]) == 64


def test_a_pickled_folder_is_read_too(near, tmp_path):
    near.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(near.state_dict(), tmp_path / "pytorch_model.bin")
    assert read_folder(tmp_path).weights.keys() == near.state_dict().keys()


def test_another_activation_is_refused(near, tmp_path):
    near.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "quick_gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match="activation gelu and quick_gelu, but tiny has gelu"):
        expert_delta(load_base("tiny"), read_folder(tmp_path))


@pytest.mark.parametrize(
    ("processor", "found"),
    [
        ({"image_mean": HALF, "image_std": HALF, "resample": 3}, Preparation(HALF, HALF)),
        (
            {"image_mean": HALF, "image_std": HALF, "resample": 2, "do_center_crop": False},
            Preparation(HALF, HALF, "bilinear", "squash"),
        ),
        ({"do_normalize": False}, Preparation((0, 0, 0), (1, 1, 1))),
        ({"image_mean": HALF, "image_std": HALF, "resample": 1}, None),
        ({"image_mean": HALF, "image_std": HALF, "resample": []}, None),
        ({"image_mean": [10**400, 0, 0], "image_std": HALF}, None),
        ({}, None),
    ],
)
def test_another_preparation_is_told(near, tmp_path, processor, found):
    near.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    folder = read_folder(tmp_path)
    assert folder.statement.preparation == found
    told = " ".join(expert_delta(load_base("tiny"), folder).warnings)
    assert "pictures were prepared with" in told
    assert ("preprocessor_config.json says something else" in told) == (found is None)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"config.json": '{"model_type": "siglip"}'}, UsageError, "of type 'siglip', not clip"),
        ({"config.json": "not json"}, DataError, "cannot be read"),
        ({"config.json": "[]"}, DataError, "is not a JSON object"),
        ({"model.safetensors": None}, DataError, "has no model.safetensors"),
        (
            {"model.safetensors": None, "model.safetensors.index.json": "{}"},
            DataError,
            "does not name the files",
        ),
        (
            {
                "model.safetensors": None,
                "model.safetensors.index.json": '{"weight_map": {"a": "../../x.safetensors"}}',
            },
            DataError,
            "does not name the files",
        ),
        (
            {
                "model.safetensors": None,
                "model.safetensors.index.json": '{"weight_map": {"a": "gone.safetensors"}}',
            },
            DataError,
            "gone.safetensors: no such file",
        ),
    ],
)
def test_a_folder_that_cannot_be_read_is_named(near, tmp_path, change, error, said):
    near.save_pretrained(tmp_path)
    for name, content in change.items():
        if content is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_text(content)
    with pytest.raises(error, match=said) as refused:
        read_folder(tmp_path)
    assert hint_of(refused.value)


def test_a_processor_like_the_base_models_is_nothing_to_tell(near, tmp_path):
    near.save_pretrained(tmp_path)
    usual = load_base("tiny").preprocessing.preparation
    processor = {"image_mean": usual.mean, "image_std": usual.std, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    told = " ".join(expert_delta(load_base("tiny"), read_folder(tmp_path)).warnings)
    assert "prepared" not in told


@pytest.mark.parametrize("file", ["model.safetensors", "plain.safetensors"])
def test_a_file_is_judged_by_what_is_beside_it(near, tmp_path, file):
    near.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if file == "plain.safetensors":
        (tmp_path / "model.safetensors").rename(tmp_path / file)
        (tmp_path / "config.json").write_text('{"model_type": "else"}')
        beside = {"model_cfg": {"quick_gelu": True}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(beside))
    else:
        config["text_config"]["hidden_act"] = "quick_gelu"
        (tmp_path / "config.json").write_text(json.dumps(config))
    names = tmp_path / "names.txt"
    names.write_text("blue\nred\n")
    request = ImportRequest("cars", tmp_path / file, class_names=names, base="tiny")
    with pytest.raises(BaseModelError, match=r"has activation .*quick_gelu, but tiny has gelu"):
        Importer(tmp_path / "registry", request).plan()


@pytest.mark.parametrize("key", [None, torch.zeros(32), torch.zeros(())])
def test_a_layer_without_its_key_is_missing_by_name(near, key):
    state = dict(near.state_dict())
    del state["vision_model.encoder.layers.0.self_attn.k_proj.weight"]
    if key is not None:
        state["vision_model.encoder.layers.0.self_attn.k_proj.weight"] = key
    with pytest.raises(BaseModelError, match=r"lacks 1 of \d+ .*attn\.in_proj_weight"):
        expert_delta(load_base("tiny"), Checkpoint("expert.pt", state))
