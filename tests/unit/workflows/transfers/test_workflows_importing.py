"""Import: a foreign checkpoint becomes a task exactly, or is refused without writing anything."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from condu_cli.backbone.base_models import load_base
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import BaseModelError, ConduError, DataError, UsageError
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.answering.evaluation import EvaluateRequest, evaluate
from condu_cli.workflows.answering.predictor import PredictOptions, Predictor
from condu_cli.workflows.opening.workspace import Workspace, new_config
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.transfers.exporting import export_base, export_expert
from condu_cli.workflows.transfers.importing import Importer, ImportRequest


@pytest.fixture
def names(tmp_path):
    """Write a file of class names, one per line."""
    file = tmp_path / "names.txt"
    file.write_text("blue\nred\n")
    return file


@pytest.fixture
def exported(workspace, tmp_path):
    file = tmp_path / "warm.safetensors"
    export_expert(workspace, workspace.head(), "warm", file)
    return file


@pytest.fixture
def foreign(tmp_path):
    """Save weights near the base model's, as another program would."""
    file = tmp_path / "foreign.pt"
    state = {name: t.clone() for name, t in load_base("tiny").clip.state_dict().items()}
    state["visual.ln_post.weight"] *= 1.5
    torch.save({"epoch": 1, "state_dict": state}, file)
    return file


def import_task(path, weights, task="moved", **values):
    return Importer(path, ImportRequest(task=task, weights=weights, **values)).plan().run()


def answers(workspace, pictures, task=None):
    predictor = Predictor(workspace, workspace.head(), PredictOptions(task=task))
    return predictor.predict(pictures)


def pictures_of(folder):
    return sorted(folder.glob("*/*.png"))[::4]


def note_in(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["condu"])


# Round trips


@pytest.mark.parametrize("task", ["warm", "plants"])
def test_an_expert_is_restored_bit_for_bit(workspace, path, tmp_path, task, warm):
    file = tmp_path / "a.safetensors"
    export_expert(workspace, workspace.head(), task, file)
    summary = import_task(path, file, task)
    other = Workspace(Registry.open(path))
    assert not any("rounded" in line for line in summary.warnings)
    ours = workspace.expert(workspace.head(), workspace.head().entry(task)).clip.state_dict()
    theirs = other.expert(other.head(), other.head().entry(task)).clip.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    before, after = (answers(w, pictures_of(warm), task) for w in (workspace, other))
    assert [p.answers for p in before] == [p.answers for p in after]
    again = tmp_path / "b.safetensors"
    export_expert(other, other.head(), task, again)
    assert {n: t.numpy().tobytes() for n, t in load_file(file).items()} == {
        n: t.numpy().tobytes() for n, t in load_file(again).items()
    }
    first, second = note_in(file), note_in(again)
    assert first.pop("session") != second.pop("session")
    assert first == second


def test_what_condu_noted_needs_no_options(path, exported, workspace):
    import_task(path, exported)
    registry = Registry.open(path)
    found, original = registry.head().entry("moved"), workspace.head().entry("warm")
    assert registry.config.base.id == "tiny"
    assert found.expert.classes == original.expert.classes
    assert found.expert.templates == original.expert.templates


def test_the_session_is_an_import_and_its_record_holds_no_path(path, foreign, names, tmp_path):
    summary = import_task(path, foreign, class_names=names, base="tiny")
    session = Registry.open(path).head()
    assert (session.id, session.kind, session.task) == (summary.session, "import", "moved")
    record = session.entry("moved").expert.training
    assert record["imported_from"] == "foreign.pt"
    assert record["weights_sha256"] == hashlib.sha256(foreign.read_bytes()).hexdigest()
    assert record["recipe"] == {"image_size": 32}
    assert "final_loss" not in record
    assert tmp_path.name not in json.dumps(session.manifest())
    assert summary.images == 0
    assert 0 < summary.distance < 0.5


def test_another_task_is_added_to_those_there_are(registry_path, exported, workspace):
    before = workspace.head()
    summary = import_task(registry_path, exported)
    assert summary.tasks == 3
    head = Registry.open(registry_path).head()
    assert head.parent == before.id
    assert [entry.name for entry in head.entries] == ["warm", "plants", "moved"]


def test_a_registry_in_another_dtype_keeps_it_within_its_precision(path, exported, workspace):
    config = new_config(load_base("tiny"), codec_options={"dtype": "bfloat16"})
    Registry.create(path, config)
    import_task(path, exported)
    other = Workspace(Registry.open(path))
    theirs = other.expert(other.head(), other.head().entry("moved")).trainable_parameters()
    ours = workspace.expert(workspace.head(), workspace.head().entry("warm")).trainable_parameters()
    base = other.base.trainable_parameters()
    for name, parameter in ours.items():
        delta, kept = (
            p.detach().numpy() - base[name].detach().numpy() for p in (parameter, theirs[name])
        )
        assert np.abs(delta - kept).max() <= np.abs(delta).max() * 2**-7, name


def test_a_registry_of_one_tower_takes_its_own_experts_back(path, tmp_path, warm, learn):
    Registry.create(tmp_path / "image", new_config(load_base("tiny"), train="image"))
    learn(tmp_path / "image", "warm", warm, iterations=3)
    workspace = Workspace(Registry.open(tmp_path / "image"))
    file = tmp_path / "image.safetensors"
    export_expert(workspace, workspace.head(), "warm", file)
    for train in ("image", "whole"):
        Registry.create(path / train, new_config(load_base("tiny"), train=train))
        import_task(path / train, file)
        other = Workspace(Registry.open(path / train))
        expert = other.expert(other.head(), other.head().entry("moved")).clip.state_dict()
        written = load_file(file)
        assert all(torch.equal(expert[name], written[name]) for name in written)
    Registry.create(path / "text", new_config(load_base("tiny"), train="text"))
    with pytest.raises(UsageError, match="this registry does not train"):
        import_task(path / "text", file)


def test_the_base_model_imported_as_a_task_learned_nothing(workspace, path, tmp_path, names):
    file = tmp_path / "base.safetensors"
    export_base(workspace, file)
    summary = import_task(path, file, class_names=names)
    assert any("has learned nothing" in line for line in summary.warnings)
    other = Workspace(Registry.open(path))
    expert = other.expert(other.head(), other.head().entry("moved"))
    base = other.base.clip.state_dict()
    assert all(torch.equal(base[name], t) for name, t in expert.clip.state_dict().items())


# Prototypes


def test_without_pictures_prototypes_are_text_alone(path, foreign, names):
    import_task(path, foreign, class_names=names, base="tiny")
    workspace = Workspace(Registry.open(path))
    found = workspace.prototypes(workspace.head(), workspace.head().entry("moved"))
    assert found.counts.tolist() == [0, 0]
    assert not found.image.any()
    assert not found.pooled.any()
    assert np.linalg.norm(found.text, axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_with_pictures_prototypes_are_those_of_learning(path, foreign, warm, workspace):
    summary = import_task(path, foreign, data=warm, base="tiny")
    assert summary.images == 16
    assert summary.warnings == ()
    other = Workspace(Registry.open(path))
    found = other.prototypes(other.head(), other.head().entry("moved"))
    learned = workspace.prototypes(workspace.head(), workspace.head().entry("warm"))
    for name, values in learned.to_arrays().items():
        assert np.array_equal(values, found.to_arrays()[name]), name


def test_a_task_without_pictures_is_reached_where_no_task_has_any(path, exported, warm):
    summary = import_task(path, exported)
    assert any("only its name or the router" in line for line in summary.warnings)
    found = answers(Workspace(Registry.open(path)), pictures_of(warm))
    assert all(p.experts[0].task == "moved" for p in found)
    assert all(p.answers[0].label in ("blue", "red") for p in found)


def test_beside_tasks_with_pictures_it_is_reached_by_name_or_the_papers_router(
    registry_path, exported, warm
):
    import_task(registry_path, exported)
    workspace = Workspace(Registry.open(registry_path))
    pictures = pictures_of(warm)
    routed = answers(workspace, pictures)
    assert all(p.experts[0].task != "moved" for p in routed)
    named = answers(workspace, pictures, "moved")
    assert all(p.answers[0].task == "moved" for p in named)
    options = PredictOptions(router="paper", experts=3)
    voted = Predictor(workspace, workspace.head(), options).predict(pictures)
    assert all("moved" in {e.task for e in p.experts} for p in voted)


def test_an_imported_task_can_be_measured(path, exported, warm):
    import_task(path, exported)
    workspace = Workspace(Registry.open(path))
    request = EvaluateRequest(task="moved", data=warm)
    assert evaluate(workspace, workspace.head(), request).n == 20


def test_one_imported_with_pictures_is_measured_on_those_it_has_not_seen(path, exported, warm):
    import_task(path, exported, data=warm)
    workspace = Workspace(Registry.open(path))
    assert evaluate(workspace, workspace.head(), EvaluateRequest(task="moved")).n == 4


# Class names


def plan_of(path, weights, **values):
    values = {"base": "tiny", **values}
    return Importer(path, ImportRequest(task="moved", weights=weights, **values)).plan().plan


@pytest.mark.parametrize(
    ("name", "content", "folders", "classes"),
    [
        ("a.txt", "sea\n\n lake \n", ("sea", "lake"), ("sea", "lake")),
        ("a.json", '["sea", "lake"]', ("sea", "lake"), ("sea", "lake")),
        ("a.json", '{"s": "sea", "l": "lake"}', ("l", "s"), ("lake", "sea")),
    ],
)
def test_class_names_come_from_any_kind_of_file(
    path, foreign, tmp_path, name, content, folders, classes
):
    (tmp_path / name).write_text(content)
    plan = plan_of(path, foreign, class_names=tmp_path / name)
    assert (plan.folders, plan.classes) == (folders, classes)
    assert plan.templates == ("a photo of a {}.",)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("sea\n", "two or more classes, not 1"), ("sea\nsea\n", "two classes are called 'sea'")],
)
def test_unusable_class_names_are_refused(path, foreign, tmp_path, content, message):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        plan_of(path, foreign, class_names=tmp_path / "a.txt")


def test_a_foreign_checkpoint_needs_class_names(path, foreign):
    with pytest.raises(UsageError, match="holds no class names") as caught:
        plan_of(path, foreign)
    assert "--class-names FILE" in hint_of(caught.value)


def test_options_win_over_what_condu_noted(path, exported, names, tmp_path):
    (tmp_path / "other.txt").write_text("azure\ncrimson\n")
    plan = plan_of(path, exported, class_names=tmp_path / "other.txt", templates=("a {} square.",))
    assert plan.classes == ("azure", "crimson")
    assert plan.templates == ("a {} square.",)


def test_a_template_without_a_place_for_the_class_is_refused(path, exported):
    with pytest.raises(UsageError, match=r"must contain \{\} once"):
        plan_of(path, exported, templates=("a photo.",))


def test_pictures_of_some_noted_classes_are_enough(path, exported, make_pictures, tmp_path, warm):
    data = make_pictures(tmp_path / "few", ("red", "blue"), 2, 16)
    plan = plan_of(path, exported, data=data)
    assert plan.classes == ("blue", "red")
    assert {(s.label, s.picture.parent.name) for s in plan.data.train} == {(0, "blue"), (1, "red")}


def test_noted_classes_are_matched_by_their_folders_too(
    tmp_path, path, plants, learn, make_pictures
):
    file = tmp_path / "names.json"
    file.write_text('{"grass": "green grass", "wheat": "ripe wheat"}')
    learn(tmp_path / "r", "plants", plants, class_names=file, iterations=1)
    workspace = Workspace(Registry.open(tmp_path / "r"))
    weights = tmp_path / "plants.safetensors"
    export_expert(workspace, workspace.head(), "plants", weights)
    plan = plan_of(path, weights, data=plants)
    assert plan.classes == ("green grass", "ripe wheat")
    assert plan.folders == ("grass", "wheat")
    others = make_pictures(tmp_path / "others", ("grass", "rice"), 2, 16)
    with pytest.raises(DataError, match="no class called 'grass' "):
        plan_of(path, weights, data=others)


# Refusals, before anything is written


def test_a_known_task_is_refused(registry_path, exported):
    with pytest.raises(UsageError, match="'warm' has already been learned"):
        Importer(registry_path, ImportRequest(task="warm", weights=exported))


def test_a_checkpoint_of_another_base_model_is_refused(
    tmp_path, path, exported, names, learn, warm
):
    state = {name: tensor.clone() for name, tensor in load_base("tiny").clip.state_dict().items()}
    state["visual.proj"] += 1
    save_file(state, tmp_path / "other.safetensors")
    base = f"condu-tiny:{tmp_path / 'other.safetensors'}"
    with pytest.raises(BaseModelError, match="was fine-tuned from base model tiny with weights"):
        plan_of(path, exported, base=base)
    learn(path, "warm", warm, base=base, iterations=1)
    with pytest.raises(BaseModelError, match="was fine-tuned from base model tiny"):
        plan_of(path, exported, base=None)
    assert len(Registry.open(path).sessions()) == 1


def test_a_registry_of_another_base_model_is_not_asked_for(registry_path, exported):
    with pytest.raises(UsageError, match="belongs to base model tiny, not mini"):
        plan_of(registry_path, exported, base="mini")


@pytest.mark.parametrize(
    ("base", "hint"),
    [
        ("condu-tiny", "--base condu-tiny:/path/to/weights"),
        ("condu-tiny:/etc/w.pt", "--base condu-tiny:/path/to/weights"),
        ("hf-hub:stranger/model", "--base hf-hub:stranger/model"),
    ],
)
def test_a_file_cannot_choose_what_condu_loads(path, exported, tmp_path, base, hint):
    note = json.dumps({**note_in(exported), "base": base})
    file = tmp_path / "claims.safetensors"
    save_file(load_file(exported), file, {"condu": note})
    with pytest.raises(UsageError, match="whose weights you must name") as caught:
        plan_of(path, file, base=None)
    assert hint in hint_of(caught.value)


def test_a_fixed_size_tower_takes_no_other_image_size(path, exported):
    assert plan_of(path, exported, image_size=32).image_size == 32
    with pytest.raises(UsageError, match="32 pixels, not 64"):
        plan_of(path, exported, image_size=64)


def test_a_picture_that_cannot_be_read_leaves_nothing_behind(
    path, exported, tmp_path, make_pictures
):
    data = make_pictures(tmp_path / "broken", ("blue", "red"), 4, 16)
    for file in data.glob("*/*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(DataError, match="pictures cannot be read"):
        import_task(path, exported, data=data)
    assert not path.parent.exists()


def test_head_that_moves_meanwhile_is_noticed(registry_path, exported):
    importer = Importer(registry_path, ImportRequest(task="moved", weights=exported))
    planned = importer.plan()
    registry = Registry.open(registry_path)
    roll_back(registry, Aim(), "rollback")
    with pytest.raises(ConduError, match="HEAD moved"):
        planned.run()
    assert [entry.name for entry in Registry.open(registry_path).head().entries] == ["warm"]
