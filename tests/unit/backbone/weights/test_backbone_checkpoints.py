"""Checkpoint files: what is written loads in open_clip, what is read runs no code."""

import hashlib
import json
import os
import resource
import stat

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.models.open_clip_models import OpenClipModel
from condu_cli.backbone.weights import checkpoints
from condu_cli.backbone.weights.checkpoints import (
    METADATA_KEY,
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from condu_cli.backbone.weights.foreign_experts import expert_delta
from condu_cli.base_identity import BaseIdentity
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, DataError, UsageError
from condu_cli.preprocessing import Preparation, Preprocessing

NOTE = {"format": 1, "task": "warm", "classes": ["blau", "röt"]}


@pytest.fixture
def expert(tiny):
    """A copy of the base model with other weights."""
    copy = tiny.expert_copy()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in copy.trainable_parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return copy


@pytest.fixture
def path(tmp_path):
    return tmp_path / "expert.safetensors"


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


# Writing


@torch.inference_mode()
def test_open_clip_loads_the_file_directly(expert, path):
    write_checkpoint(expert, path, NOTE)
    loaded = open_clip.create_model("condu-tiny", pretrained=str(path))
    assert same(loaded.state_dict(), expert.clip.state_dict())
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        loaded.eval().encode_image(pixels, normalize=True), expert.encode_images(pixels)
    )
    other = open_clip.create_model("condu-tiny")
    open_clip.load_checkpoint(other, str(path))
    assert same(other.state_dict(), expert.clip.state_dict())


def test_the_note_is_one_json_text_under_one_key(expert, path):
    write_checkpoint(expert, path, NOTE)
    with safe_open(path, framework="pt") as file:
        assert list(file.metadata()) == [METADATA_KEY]
        assert json.loads(file.metadata()[METADATA_KEY]) == NOTE
    assert read_checkpoint(path).metadata == NOTE


def test_the_same_expert_gives_the_same_bytes(expert, tmp_path):
    hashes = set()
    for name in ("a", "b", "c"):
        path = tmp_path / f"{name}.safetensors"
        write_checkpoint(expert, path, dict(reversed(NOTE.items())) if name == "b" else NOTE)
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_the_memory_format_leaves_no_trace(expert, tmp_path):
    write_checkpoint(expert, tmp_path / "a.safetensors", NOTE)
    expert.clip.visual.to(memory_format=torch.channels_last)
    assert not expert.clip.visual.conv1.weight.is_contiguous()
    write_checkpoint(expert, tmp_path / "b.safetensors", NOTE)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_tensors_that_share_memory_are_each_written(path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight
            self.register_buffer("row", self.a.weight.detach()[1])
            self.register_buffer("none", torch.zeros(0))

        @property
        def library_model(self):
            return self

    model = Tied()
    write_checkpoint(model, path, {})
    assert same(load_file(path), model.state_dict())


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_the_mode_follows_the_umask(expert, path, umask):
    before = os.umask(umask)
    try:
        write_checkpoint(expert, path, NOTE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_an_existing_file_is_kept_unless_it_may_be_overwritten(expert, path):
    path.write_text("mine")
    with pytest.raises(UsageError, match="already exists") as caught:
        write_checkpoint(expert, path, NOTE)
    assert "--force" in hint_of(caught.value)
    assert path.read_text() == "mine"
    write_checkpoint(expert, path, NOTE, overwrite=True)
    assert read_checkpoint(path).metadata == NOTE
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("expert.pt", "must end in .safetensors"),
        ("expert", "must end in .safetensors"),
        ("nowhere/expert.safetensors", "no such folder"),
        ("folder.safetensors", "is not a file"),
    ],
)
def test_a_name_that_cannot_be_written_is_refused(expert, tmp_path, name, message):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UsageError, match=message):
        write_checkpoint(expert, tmp_path / name, NOTE, overwrite=True)
    assert os.listdir(tmp_path) == ["folder.safetensors"]


def test_nothing_is_left_behind_when_writing_fails(expert, path, monkeypatch):
    def full(tensors, filename, metadata):
        filename.write_bytes(b"half")
        (filename.parent / "leftover").write_bytes(b"of the library")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    path.write_text("mine")
    with pytest.raises(ConduError, match="No space left on device") as caught:
        write_checkpoint(expert, path, NOTE, overwrite=True)
    assert str(path) in caught.value.message
    assert os.listdir(path.parent) == [path.name]
    assert path.read_text() == "mine"


def test_nothing_is_left_behind_when_the_disk_refuses_the_bytes(expert, path):
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ConduError, match="cannot be written"):
            write_checkpoint(expert, path, NOTE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(path.parent) == []


# Reading


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PT", ".ckpt"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_pickled_state_dicts_are_read_with_and_without_wrappers(expert, tmp_path, suffix, wrapper):
    state = expert.clip.state_dict()
    path = tmp_path / f"expert{suffix}"
    torch.save(state if wrapper is None else {"epoch": 3, wrapper: state}, path)
    found = read_checkpoint(path)
    assert same(found.weights, state)
    assert found.metadata == {}


def test_a_safetensors_file_from_elsewhere_has_no_note(expert, path):
    save_file(expert.clip.state_dict(), path, {"format": "pt"})
    found = read_checkpoint(path)
    assert same(found.weights, expert.clip.state_dict())
    assert found.metadata == {}


def test_entries_that_are_not_tensors_are_ignored(expert, tmp_path):
    path = tmp_path / "expert.pt"
    state = {**expert.clip.state_dict(), "epoch": 3}
    torch.save({"model": {"state_dict": state}, "optimizer": {"lr": 1.0}}, path)
    assert same(read_checkpoint(path).weights, expert.clip.state_dict())


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, new_format):
    path, sprung = tmp_path / "trap.pt", tmp_path / "sprung"
    content = {"state_dict": Trap(sprung)}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(DataError, match="pickled code, which is never run") as caught:
        read_checkpoint(path)
    assert "state_dict()" in hint_of(caught.value)
    assert not sprung.exists()


def _corrupt(kind, path, state):
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "text":
        path.write_text("this is not a checkpoint")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "header":
        path.write_bytes(path.read_bytes()[:5])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kind", ["cut", "text", "empty", "header"])
def test_an_invalid_checkpoint_is_one_clear_line(expert, tmp_path, suffix, kind):
    path = tmp_path / f"expert{suffix}"
    state = expert.clip.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    _corrupt(kind, path, state)
    with pytest.raises(DataError) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 15
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message
    assert hint_of(caught.value)


@pytest.mark.parametrize("content", [{}, [1, 2], 3, {"state_dict": 3}, torch.zeros(3)])
def test_a_pickle_without_a_state_dict_holds_no_tensors(tmp_path, content):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(DataError, match="holds no tensors"):
        read_checkpoint(tmp_path / "odd.pt")


def test_a_missing_file_a_folder_and_a_strange_suffix_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_checkpoint(tmp_path / "gone.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_checkpoint(tmp_path / "folder.pt")
    with pytest.raises(UsageError, match="does not have the suffix of a checkpoint") as caught:
        read_checkpoint(tmp_path / "expert.onnx")
    assert ".safetensors, .pt, .pth, .bin" in hint_of(caught.value)


@pytest.mark.parametrize("note", ["{", "[1]", "[" * 100_000])
def test_a_corrupt_note_is_an_error(expert, path, note):
    save_file(expert.clip.state_dict(), path, {METADATA_KEY: note})
    with pytest.raises(DataError, match="in this file is corrupt"):
        read_checkpoint(path)


# Loading without condu


def named(architecture, activation, **preparation):
    """A model that only tells how its files are loaded."""
    model = object.__new__(OpenClipModel)
    info = BaseIdentity("x", architecture, "", activation, "", 224)
    usual = PreprocessCfg()
    values = {"mean": tuple(usual.mean), "std": tuple(usual.std), **preparation}
    vars(model).update(info=info, preprocessing=Preprocessing(224, Preparation(**values)))
    return model


@pytest.mark.parametrize(
    ("architecture", "activation", "call"),
    [
        ("ViT-B-16", "quick_gelu", '("ViT-B-16-quickgelu", pretrained="f")'),
        ("ViT-B-16-quickgelu", "quick_gelu", '("ViT-B-16-quickgelu", pretrained="f")'),
        ("ViT-B-32", "gelu", '("ViT-B-32", pretrained="f")'),
        (
            "coca_ViT-B-32",
            "quick_gelu",
            '("coca_ViT-B-32", pretrained="f", force_quick_gelu=True)',
        ),
    ],
)
def test_the_call_that_loads_a_file_gives_the_same_activation(architecture, activation, call):
    assert named(architecture, activation).how_to_load("f") == (
        f"open_clip.create_model_and_transforms{call}"
    )


def test_the_call_that_loads_a_file_gives_the_same_preprocessing():
    model = named("ViT-B-32", "gelu", mean=(0.5, 0.5, 0.5), resize_mode="squash")
    assert model.how_to_load('a "b".safetensors') == (
        'open_clip.create_model_and_transforms("ViT-B-32", pretrained="a \\"b\\".safetensors", '
        "image_mean=(0.5, 0.5, 0.5), image_resize_mode='squash')"
    )


def test_a_model_of_the_hub_is_built_from_its_configuration():
    load = named("hf-hub:org/model", "gelu").how_to_load("f")
    assert 'create_model("hf-hub:org/model", load_weights=False)' in load
    assert 'load_checkpoint(model, "f")' in load


def test_the_embedded_model_goes_through_a_file_unchanged(path):
    mini = load_base("mini")
    write_checkpoint(mini, path, NOTE)
    found = read_checkpoint(path)
    assert same(found.weights, mini.state_dict())
    delta = expert_delta(mini, Checkpoint(path, found.weights))
    assert delta.distance == 0
    assert delta.warnings == (
        "every weight equals the base model's: this expert has learned nothing",
    )
    assert mini.how_to_load("f") == ""
