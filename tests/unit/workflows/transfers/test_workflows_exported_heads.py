"""A head beside an exported expert: a second file that belongs to the first, or nothing is read."""

import hashlib
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from lora_registries import commit, lora_config
from safetensors import safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.classifiers import TorchHead
from condu_cli.backbone.features import image_features
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, DataError, UsageError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.opening.workspace import Workspace
from condu_cli.workflows.transfers.exporting import export_adapter, export_expert
from condu_cli.workflows.transfers.importing import Importer, ImportRequest


@pytest.fixture
def lora(tmp_path):
    """A LoRA registry of `tiny` with one expert that has a head, and one that has none."""
    registry = Registry.create(tmp_path / "lora", lora_config())
    commit(registry, "warm", 0, with_head=True)
    commit(registry, "bare", 1)
    return Workspace(registry)


@pytest.fixture
def exported(lora, tmp_path):
    file = tmp_path / "out" / "warm.safetensors"
    file.parent.mkdir()
    export_expert(lora, lora.head(), "warm", file)
    return file


@pytest.fixture
def head(lora):
    """The head in the registry, as arrays."""
    return lora.head_beside(lora.head(), lora.head().entry("warm"))


def second(file):
    return file.with_name(file.stem + ".head.safetensors")


def note_in(file):
    with safe_open(file, framework="pt") as opened:
        return json.loads(opened.metadata()["condu"])


def plan(tmp_path, weights, **values):
    request = ImportRequest(task="moved", weights=weights, **values)
    return Importer(tmp_path / "full", request).plan()


def with_head(exported, arrays):
    """Exchange the head for another, and name that one in the checkpoint: a wrong export."""
    save_arrays(arrays, second(exported))
    digest = hashlib.sha256(second(exported).read_bytes()).hexdigest()
    note = {**note_in(exported), "head": digest}
    save_file(load_file(exported), exported, {"condu": json.dumps(note)})


# Export


def test_the_checkpoint_names_the_head_and_holds_none_of_it(exported, head):
    found = load_arrays(second(exported))
    assert found.keys() == head.keys()
    assert all(np.array_equal(found[name], head[name]) for name in head)
    note = note_in(exported)
    assert note["head"] == hashlib.sha256(second(exported).read_bytes()).hexdigest()
    assert note["format"] == 2  # a condu that knows no heads must refuse it
    assert load_file(exported).keys() == load_base("tiny").clip.state_dict().keys()
    assert note_in(second(exported))["classes"] == ["blue", "red"]


@torch.inference_mode()
def test_both_files_answer_in_open_clip_as_in_condu(lora, exported, head):
    model, _, _ = open_clip.create_model_and_transforms("condu-tiny", pretrained=str(exported))
    model.eval().visual.proj = None
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pooled = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1)
    beside = load_file(second(exported))
    expert = lora.expert(lora.head(), lora.head().entry("warm"))
    ours = TorchHead.on(expert.device, head["weights"], head["bias"])
    expected = ours(image_features(expert, pixels).pooled)
    assert torch.allclose(pooled @ beside["weights"].T + beside["bias"], expected, atol=1e-5)


def test_an_expert_without_a_head_is_one_file_with_the_note_of_before(lora, tmp_path):
    file = tmp_path / "bare.safetensors"
    summary = export_expert(lora, lora.head(), "bare", file)
    assert (summary.head_path, summary.head_bytes) == (None, 0)
    assert not second(file).exists()
    assert note_in(file)["format"] == 1
    assert "head" not in note_in(file)


def test_the_same_head_is_the_same_file(lora, exported, tmp_path):
    again = tmp_path / "again.safetensors"
    summary = export_expert(lora, lora.head(), "warm", again)
    assert second(again).read_bytes() == second(exported).read_bytes()
    assert again.read_bytes() == exported.read_bytes()
    assert summary.head_path == str(second(again))
    assert summary.head_bytes == second(again).stat().st_size


def test_a_session_that_is_stored_as_a_patch_exports_its_head(lora, exported, tmp_path):
    for seed in (2, 3):
        commit(lora.registry, f"more{seed}", seed)
    old = lora.registry.resolve("@~3")
    export_expert(lora, old, "warm", tmp_path / "old.safetensors")
    assert second(tmp_path / "old.safetensors").read_bytes() == second(exported).read_bytes()


def test_a_place_that_is_taken_is_refused_before_anything_is_loaded(lora, tmp_path, monkeypatch):
    monkeypatch.setattr(Workspace, "expert", None)
    file = tmp_path / "warm.safetensors"
    second(file).write_text("mine")
    with pytest.raises(UsageError, match=r"warm\.head\.safetensors: already exists"):
        export_expert(lora, lora.head(), "warm", file)
    second(file).unlink()
    second(file).mkdir()
    with pytest.raises(UsageError, match=r"warm\.head\.safetensors: is not a file"):
        export_expert(lora, lora.head(), "warm", file, overwrite=True)
    assert not file.exists()


@pytest.mark.parametrize("before", [None, b"mine"])
def test_where_the_checkpoint_cannot_be_placed_there_is_no_head(
    lora, tmp_path, monkeypatch, before
):
    file = tmp_path / "warm.safetensors"
    if before is not None:
        second(file).write_bytes(before)
    real = Path.replace

    def replace(self, target):
        if target == file:
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(ConduError, match="cannot be written"):
        export_expert(lora, lora.head(), "warm", file, overwrite=True)
    assert not file.exists()
    assert (second(file).read_bytes() if second(file).exists() else None) == before
    assert not list(tmp_path.glob(".condu-*"))


def test_an_adapters_folder_holds_its_head_until_it_is_overwritten(lora, tmp_path):
    folder = tmp_path / "adapter"
    export_adapter(lora, lora.head(), "warm", folder)
    head = folder / "adapter_head.safetensors"
    digest = hashlib.sha256(head.read_bytes()).hexdigest()
    assert note_in(folder / "adapter_model.safetensors")["head"] == digest
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1
    export_adapter(lora, lora.head(), "warm", folder, overwrite=True)
    assert head.exists()
    export_adapter(lora, lora.head(), "bare", folder, overwrite=True)
    assert not head.exists()


# Import


def test_the_head_is_beside_the_imported_expert(exported, head, tmp_path):
    done = plan(tmp_path, exported).run()
    assert done.head_from == "warm.head.safetensors"
    workspace = Workspace(Registry.open(tmp_path / "full"))
    found = workspace.head_beside(workspace.head(), workspace.head().entry("moved"))
    assert all(np.array_equal(found[name], head[name]) for name in head)


def test_a_missing_head_is_named(exported, tmp_path):
    second(exported).unlink()
    with pytest.raises(DataError, match=r"warm\.head\.safetensors: no such file") as caught:
        plan(tmp_path, exported)
    assert "Copy it there" in hint_of(caught.value)
    assert not (tmp_path / "full").exists()


def test_a_head_of_another_export_is_refused(exported, head, tmp_path):
    save_arrays({**head, "bias": head["bias"] + 1}, second(exported))
    with pytest.raises(DataError, match=r"is not the head that .* was exported with") as caught:
        plan(tmp_path, exported)
    assert "same export" in hint_of(caught.value)


def three_classes(head):
    return {name: np.concatenate([values, values[:1]]) for name, values in head.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (three_classes, "holds no head of 2 classes"),
        (lambda head: {**head, "bias": head["bias"] * np.float32("nan")}, "NaN"),
        (lambda head: {"weights": head["weights"]}, "'bias' is missing"),
        (lambda head: {**head, "weights": head["weights"][:, :5].copy()}, "features of 5 numbers"),
    ],
)
def test_a_wrong_head_is_refused_even_if_the_note_names_it(
    exported, head, tmp_path, change, message
):
    with_head(exported, change(head))
    with pytest.raises(DataError, match=message) as caught:
        plan(tmp_path, exported)
    assert "Export the expert again" in hint_of(caught.value)
    assert not (tmp_path / "full").exists()


def test_a_file_that_is_no_safetensors_is_refused_even_if_the_note_names_it(exported, tmp_path):
    second(exported).write_bytes(b"not a header")
    digest = hashlib.sha256(second(exported).read_bytes()).hexdigest()
    note = json.dumps({**note_in(exported), "head": digest})
    save_file(load_file(exported), exported, {"condu": note})
    with pytest.raises(DataError, match="holds no head"):
        plan(tmp_path, exported)


@pytest.mark.parametrize(
    ("name", "content", "classes"),
    [
        ("names.txt", "red\nblue\n", ("red", "blue")),
        ("names.json", '{"red": "blue", "blue": "red"}', ("red", "blue")),
        ("names.json", '{"red": "crimson", "blue": "navy"}', ("navy", "crimson")),
    ],
)
def test_rows_follow_their_classes(exported, head, tmp_path, name, content, classes):
    (tmp_path / name).write_text(content)
    made = plan(tmp_path, exported, class_names=tmp_path / name).plan
    assert made.classes == classes
    rows = [("blue", "red", "navy", "crimson").index(name) % 2 for name in classes]
    assert np.array_equal(made.head["weights"], head["weights"][rows])
    assert np.array_equal(made.head["bias"], head["bias"][rows])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("blue\ngreen\n", "its own 2 classes, not 'green'"),
        ("blue\nred\ngreen\n", "its own 2 classes, not 'green'"),
    ],
)
def test_other_classes_than_the_heads_are_refused(exported, tmp_path, names, message):
    (tmp_path / "names.txt").write_text(names)
    with pytest.raises(UsageError, match=message) as caught:
        plan(tmp_path, exported, class_names=tmp_path / "names.txt")
    assert "Omit --class-names" in hint_of(caught.value)


def test_a_head_is_not_imported_as_weights(exported, tmp_path):
    with pytest.raises(UsageError, match="holds the head of an expert") as caught:
        plan(tmp_path, second(exported))
    assert "Name the weights" in hint_of(caught.value)


def test_a_head_that_the_weights_do_not_name_is_not_used(exported, tmp_path):
    save_file(load_file(exported), exported)  # as other programs do: the note is lost
    (tmp_path / "names.txt").write_text("blue\nred\n")
    made = plan(tmp_path, exported, class_names=tmp_path / "names.txt", base="tiny").plan
    assert made.head is None
    assert any("warm.head.safetensors is not used" in warning for warning in made.warnings)


def test_a_note_with_a_name_for_its_head_that_is_no_hash_is_refused(exported, tmp_path):
    note = json.dumps({**note_in(exported), "head": "../elsewhere"})
    save_file(load_file(exported), exported, {"condu": note})
    with pytest.raises(DataError, match="was altered"):
        plan(tmp_path, exported)
