"""Export: the weights that predict uses, loadable by open_clip, and nothing private."""

import json
import os
from dataclasses import asdict

import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from condu_cli._version import __version__
from condu_cli.backbone.base_models import load_base
from condu_cli.base_identity import BaseIdentity
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import DataError, NotFoundError, UsageError
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.opening.workspace import Workspace
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.transfers.exporting import (
    ExportNote,
    export_base,
    export_expert,
    portable_base_id,
    read_note,
)


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "expert.safetensors"


def note_in(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["condu"])


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("task", ["warm", "plants"])
def test_the_file_holds_the_expert_that_predict_asks(workspace, target, task):
    session = workspace.head()
    summary = export_expert(workspace, session, task, target)
    expert = workspace.expert(session, session.entry(task))
    assert same(load_file(target), expert.clip.state_dict())
    assert (summary.task, summary.session, summary.kind) == (task, session.id, "expert")
    assert summary.bytes == target.stat().st_size
    assert summary.base == "tiny"


@torch.inference_mode()
def test_open_clip_gives_the_same_features_as_condu(workspace, target):
    session = workspace.head()
    summary = export_expert(workspace, session, "warm", target)
    assert summary.load == (
        f'open_clip.create_model_and_transforms("condu-tiny", pretrained="{target}")'
    )
    model, _, _ = open_clip.create_model_and_transforms("condu-tiny", pretrained=str(target))
    expert = workspace.expert(session, session.entry("warm"))
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = expert.tokenize(["a photo of a cat."])["ids"]
    model.eval()
    assert torch.equal(model.encode_image(pixels, normalize=True), expert.encode_images(pixels))
    # Full context there, the prompt's length here: equal up to rounding.
    texts = expert.encode_texts(["a photo of a cat."])
    assert torch.allclose(model.encode_text(ids, normalize=True), texts, atol=1e-6)


def test_the_note_says_what_an_import_needs(workspace, target):
    session = workspace.head()
    export_expert(workspace, session, "plants", target)
    entry, info = session.entry("plants"), workspace.base.info
    assert note_in(target) == {
        "format": 1,
        "condu": __version__,
        "kind": "expert",
        "base": "tiny",
        "architecture": "condu-tiny",
        "activation": "gelu",
        "base_weights_sha256": info.weights_sha256,
        "task": "plants",
        "session": session.id,
        "classes": list(entry.expert.classes),
        "folders": ["grass", "wheat"],
        "templates": list(entry.expert.templates),
        "image_size": 32,
        "preparation": workspace.base.preprocessing.preparation.to_record(),
    }


def test_the_base_model_is_exported_unchanged(workspace, target):
    summary = export_base(workspace, target)
    assert same(load_file(target), workspace.base.clip.state_dict())
    assert (summary.kind, summary.task, summary.session) == ("base", None, None)
    assert load_base(f"condu-tiny:{target}").info.weights_sha256 == (
        workspace.base.info.weights_sha256
    )


def test_a_task_can_be_exported_as_it_was_in_an_older_session(workspace, target, tmp_path):
    registry = workspace.registry
    first = registry.resolve("@~1")
    export_expert(workspace, first, "warm", target)
    assert note_in(target)["session"] == first.id
    with pytest.raises(NotFoundError, match="no task 'plants'"):
        export_expert(workspace, first, "plants", target, overwrite=True)
    newer = tmp_path / "newer.safetensors"
    export_expert(workspace, workspace.head(), "warm", newer)
    assert not same(load_file(target), load_file(newer))  # the second task moved the first
    roll_back(registry, Aim(first.id), "rollback")
    again = tmp_path / "again.safetensors"
    export_expert(workspace, workspace.head(), "warm", again)
    assert again.read_bytes() == target.read_bytes()


def test_the_same_expert_is_the_same_file(workspace, registry_path, tmp_path):
    again = Workspace(Registry.open(registry_path))
    for name, found in (("a", workspace), ("b", again)):
        export_expert(found, found.head(), "warm", tmp_path / f"{name}.safetensors")
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


def test_no_path_of_this_machine_is_in_the_file(tmp_path, target, learn, warm):
    weights = tmp_path / "somewhere" / "weights.safetensors"
    weights.parent.mkdir()
    save_file(load_base("tiny").clip.state_dict(), weights)
    learn(tmp_path / "registry", "warm", warm, base=f"condu-tiny:{weights}", iterations=1)
    workspace = Workspace(Registry.open(tmp_path / "registry"))
    export_expert(workspace, workspace.head(), "warm", target)
    content = target.read_bytes()
    for private in (tmp_path.name, tmp_path.parent.name, "somewhere", str(warm.parent)):
        assert private.encode() not in content
    assert note_in(target)["base"] == "condu-tiny"
    assert os.path.sep not in target.read_bytes()[8:2000].decode("ascii", "ignore").split("{")[1]


def test_a_name_that_is_taken_is_refused_before_anything_is_loaded(workspace, target):
    target.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        export_expert(workspace, workspace.head(), "warm", target)
    with pytest.raises(UsageError, match="already exists"):
        export_base(workspace, target)
    assert "base" not in vars(workspace)
    assert target.read_text() == "mine"


def test_an_unknown_task_names_the_known_ones(workspace, target):
    with pytest.raises(NotFoundError) as caught:
        export_expert(workspace, workspace.head(), "warn", target)
    assert "warm" in hint_of(caught.value)
    assert not target.exists()


@pytest.mark.parametrize(
    ("base_id", "architecture", "pretrained", "name"),
    [
        ("ViT-B-16:openai", "ViT-B-16", "openai", "ViT-B-16:openai"),
        ("ViT-B-16:/home/ada/w.pt", "ViT-B-16", "/home/ada/w.pt", "ViT-B-16"),
        ("hf-hub:org/model", "hf-hub:org/model", "", "hf-hub:org/model"),
        ("mini", "efficientnet_lite0+minilm_l6", "mini", "mini"),
    ],
)
def test_a_base_model_is_named_without_its_place(base_id, architecture, pretrained, name):
    base = BaseIdentity(base_id, architecture, pretrained, "gelu", "ab" * 32, 224)
    assert portable_base_id(base) == name


# Metadata of other files


@pytest.fixture
def note():
    found = ExportNote(
        kind="expert",
        base="tiny",
        architecture="condu-tiny",
        activation="gelu",
        base_weights_sha256="ab" * 32,
        image_size=32,
        classes=("a", "b"),
        templates=("a {}.",),
    )
    return json.loads(json.dumps(asdict(found)))


def test_a_note_is_read_as_it_was_written(note, target):
    assert json.loads(json.dumps(asdict(read_note(target, note)))) == note
    assert read_note(target, {}) is None
    assert read_note(target, {**note, "added later": 1}) == read_note(target, note)


def test_a_newer_note_asks_for_an_upgrade(note, target):
    with pytest.raises(DataError, match="newer condu"):
        read_note(target, {**note, "format": 3})


def test_a_whole_registry_is_not_a_model(note, target):
    with pytest.raises(UsageError, match="holds a registry, not a single model") as caught:
        read_note(target, {**note, "kind": "registry"})
    assert f"condu import {target}" in hint_of(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": "cat"},
        {"classes": ["a", "a"]},
        {"classes": ["a", 3]},
        {"classes": ["a", " "]},
        {"folders": ["one"]},
        {"templates": None},
        {"image_size": "32"},
        {"image_size": 10**9},
        {"image_size": -1},
        {"architecture": None},
        {"base": ["tiny"]},
    ],
)
def test_an_altered_note_is_refused(note, target, change):
    with pytest.raises(DataError, match="was altered"):
        read_note(target, {**note, **change})


def test_a_note_that_lacks_something_is_refused(note, target):
    del note["image_size"]
    with pytest.raises(DataError, match="was altered"):
        read_note(target, note)
