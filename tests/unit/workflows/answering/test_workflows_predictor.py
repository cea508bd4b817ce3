"""Predict: which expert answers, among which labels, and what is decoupled."""

import numpy as np
import pytest
from made_registries import flip
from PIL import Image
from stored_pictures import stored

from condu_cli.backbone.base_models import load_base
from condu_cli.cli.hints.making import hint_of
from condu_cli.core.metrics import softmax
from condu_cli.data.pictures.transforms import view_of
from condu_cli.data.pictures.windows import windows
from condu_cli.data.sources.known_tasks import DEFAULT_TEMPLATES
from condu_cli.errors import IntegrityError, NotFoundError
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.answering.answers import Candidate, RoutedExpert
from condu_cli.workflows.answering.class_features import encode_candidates
from condu_cli.workflows.answering.panel import Panel, expert_image_size, logits_of
from condu_cli.workflows.answering.predictor import PredictOptions, Predictor
from condu_cli.workflows.answering.zero_shot import ZeroShot
from condu_cli.workflows.opening.workspace import Workspace
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import open_state, restore_files

COLOURS = {
    "blue": (40, 60, 220),
    "red": (220, 40, 40),
    "grass": (40, 190, 60),
    "wheat": (230, 200, 40),
}
PICTURES = stored([Image.new("RGB", (16, 16), colour) for colour in COLOURS.values()])
OWN = {"warm": {"blue", "red"}, "plants": {"grass", "wheat"}}
RIGHT_TASKS = ["warm", "warm", "plants", "plants"]


def predict(workspace, pictures=PICTURES, **options):
    predictor = Predictor(workspace, workspace.head(), PredictOptions(**options))
    return predictor.predict(pictures)


def best(predictions) -> list[str]:
    return [prediction.answers[0].label for prediction in predictions]


def routes(predictions) -> list[list[str]]:
    return [[expert.task for expert in prediction.experts] for prediction in predictions]


@pytest.fixture
def decoupled(monkeypatch):
    """Record the tasks whose experts were decoupled, in order."""
    tasks = []
    real = Workspace._decouple

    def counting(self, session, entry):
        tasks.append(entry.name)
        real(self, session, entry)

    monkeypatch.setattr(Workspace, "_decouple", counting)
    return tasks


# A named task


def test_a_named_tasks_expert_answers_among_its_own_classes(workspace, decoupled):
    predictions = predict(workspace, PICTURES[:2], task="warm")
    assert best(predictions) == ["blue", "red"]
    for prediction in predictions:
        assert {a.label for a in prediction.answers} == OWN["warm"]
        assert {a.task for a in prediction.answers} == {"warm"}
        assert prediction.experts == (RoutedExpert("warm", None),)
    assert decoupled == ["warm"]


def test_probabilities_add_up_to_one_and_come_best_first(workspace):
    for prediction in predict(workspace, task="plants"):
        values = [answer.probability for answer in prediction.answers]
        assert sum(values) == pytest.approx(1.0)
        assert values == sorted(values, reverse=True)


def test_an_unknown_task_is_refused_before_any_picture_is_read(workspace):
    with pytest.raises(NotFoundError, match="no task 'wram'") as caught:
        Predictor(workspace, workspace.head(), PredictOptions(task="wram"))
    assert "warm" in hint_of(caught.value)


# No task named


def test_each_picture_goes_to_the_task_that_it_looks_like(workspace):
    predictions = predict(workspace)
    assert [route[0] for route in routes(predictions)] == RIGHT_TASKS
    assert best(predictions) == list(COLOURS)


def test_the_routed_expert_answers_among_its_own_classes(workspace):
    for prediction, task in zip(predict(workspace), RIGHT_TASKS, strict=True):
        assert {answer.label for answer in prediction.answers} == OWN[task]
        (expert,) = prediction.experts
        assert -1 <= expert.similarity <= 1


def test_routing_and_then_naming_the_task_give_the_same_answers(workspace):
    routed = predict(workspace)
    for position, task in enumerate(RIGHT_TASKS):
        (named,) = predict(workspace, [PICTURES[position]], task=task)
        ours, theirs = routed[position].answers, named.answers
        assert [answer.label for answer in ours] == [answer.label for answer in theirs]
        assert [a.probability for a in ours] == pytest.approx([a.probability for a in theirs])


def test_only_the_experts_that_are_needed_are_decoupled(workspace, decoupled):
    predict(workspace, PICTURES[2:])
    assert decoupled == ["plants"]


def test_each_expert_is_decoupled_once_however_the_pictures_are_mixed(workspace, decoupled):
    mixed = [PICTURES[i] for i in (0, 2, 1, 3, 0, 2)]
    assert [route[0] for route in routes(predict(workspace, mixed))] == ["warm", "plants"] * 3
    assert sorted(decoupled) == ["plants", "warm"]


def test_an_expert_that_is_loaded_already_is_not_decoupled_again(workspace, decoupled):
    for _ in range(3):
        predict(workspace, PICTURES[:1], task="warm")
    assert decoupled == ["warm"]


def test_the_order_and_the_batches_of_the_pictures_do_not_matter(workspace, monkeypatch):
    whole = predict(workspace)
    monkeypatch.setattr("condu_cli.workflows.answering.panel.BATCH", 1)
    backwards = predict(workspace, PICTURES[::-1])[::-1]
    assert best(backwards) == best(whole)
    assert routes(backwards) == routes(whole)
    for ours, theirs in zip(backwards, whole, strict=True):
        assert ours.answers[0].probability == pytest.approx(theirs.answers[0].probability, abs=1e-5)


# A vote


def test_two_experts_vote_over_the_union_of_all_classes(workspace, decoupled):
    predictions = predict(workspace, experts=2)
    for prediction in predictions:
        assert {answer.label for answer in prediction.answers} == set(COLOURS)
        similarities = [expert.similarity for expert in prediction.experts]
        assert len(similarities) == 2
        assert similarities == sorted(similarities, reverse=True)
    assert [route[0] for route in routes(predictions)] == RIGHT_TASKS
    assert sorted(decoupled) == ["plants", "warm"]


def test_more_experts_than_tasks_are_all_tasks(workspace):
    assert {len(route) for route in routes(predict(workspace, experts=9))} == {2}


def test_the_papers_router_lets_the_base_model_vote_with_one_expert(workspace):
    for prediction in predict(workspace, router="paper"):
        assert {answer.label for answer in prediction.answers} == set(COLOURS)
        assert len(prediction.experts) == 1


def test_labels_of_ones_own_are_the_only_candidates(workspace):
    for prediction in predict(workspace, labels=("sea", "fire", "hay")):
        assert {answer.label for answer in prediction.answers} == {"sea", "fire", "hay"}
        assert {answer.task for answer in prediction.answers} == {None}


def test_a_vote_is_the_mean_of_the_base_models_and_the_experts_logits(workspace):
    session, labels = workspace.head(), ("sea", "fire")
    entry = session.entry("warm")
    candidates = [Candidate(label, None, DEFAULT_TEMPLATES) for label in labels]
    view = view_of(workspace.base.preprocessing, expert_image_size(entry))
    window = next(windows(PICTURES[:1], [view.geometry]))
    seen = window.views[view.geometry]
    base, expert = (
        logits_of(model, encode_candidates(model, candidates), seen, view)
        for model in (workspace.base, workspace.expert(session, entry))
    )
    expected = dict(zip(labels, softmax((base + expert) / 2)[0], strict=True))
    (prediction,) = predict(workspace, PICTURES[:1], labels=labels, rule="vote")
    assert routes([prediction]) == [["warm"]]
    found = {answer.label: answer.probability for answer in prediction.answers}
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_named_task_with_labels_asks_that_tasks_expert(workspace, decoupled):
    (prediction,) = predict(workspace, PICTURES[:1], task="plants", labels=("sea", "fire"))
    assert prediction.experts == (RoutedExpert("plants", None),)
    assert decoupled == ["plants"]


# The caller's labels, learned or not


def test_labels_that_are_all_learned_go_to_the_nearest_task_that_knows_them(workspace, decoupled):
    labels = ("Wheat", "red", "grass")
    answered = predict(workspace, labels=labels)
    # No task has learned "blue" among these labels: it goes where a label is nearest.
    assert best(answered[1:]) == ["red", "grass", "Wheat"]
    assert routes(answered[1:]) == [["warm"], ["plants"], ["plants"]]
    assert sorted(decoupled) == ["plants", "warm"]
    for prediction in answered:
        found = {answer.label: answer.probability for answer in prediction.answers}
        assert set(found) == set(labels)
        assert sum(found.values()) == pytest.approx(1)


def test_a_label_that_another_task_knows_has_no_chance_once_a_task_is_found(workspace):
    (prediction,) = predict(workspace, PICTURES[2:3], labels=("grass", "wheat", "red"))
    assert [answer.task for answer in prediction.answers] == ["plants", "plants", None]
    assert prediction.answers[-1].probability == 0


def test_an_expert_chooses_as_when_its_task_is_named(workspace):
    (named,) = predict(workspace, PICTURES[:1], task="warm")
    (labelled,) = predict(workspace, PICTURES[:1], labels=("red", "blue"))
    assert {(a.label, a.task): pytest.approx(a.probability) for a in named.answers} == {
        (a.label, a.task): a.probability for a in labelled.answers
    }


def test_labels_that_no_task_has_learned_ask_the_base_model_alone(workspace, decoupled):
    for prediction in predict(workspace, labels=("sea", "fire", "hay")):
        assert prediction.experts == ()
    assert decoupled == []


def test_among_mixed_labels_the_base_model_decides_which_are_for_an_expert(workspace):
    labels = ("fire", "red", "blue")
    base_alone = ZeroShot(lambda: workspace.base, labels, "", "tiny").predict(PICTURES)
    assert set(best(base_alone)) > {"fire"}  # else the test would see one kind only
    for ours, zero_shot in zip(predict(workspace, labels=labels), base_alone, strict=True):
        if zero_shot.answers[0].label == "fire":
            assert ours == zero_shot
        else:
            assert [expert.task for expert in ours.experts] == ["warm"]
            assert ours.answers[0].label in ("red", "blue")


@pytest.mark.parametrize("rule", [None, "labels"])
def test_a_named_task_chooses_alone_among_labels_that_it_has_learned(workspace, rule, monkeypatch):
    monkeypatch.setattr(Panel, "base_logits", lambda *_: pytest.fail("the base model was asked"))
    for prediction in predict(workspace, task="plants", labels=("Wheat", "grass"), rule=rule):
        assert {answer.task for answer in prediction.answers} == {"plants"}
        assert {answer.label for answer in prediction.answers} == {"Wheat", "grass"}
        assert prediction.experts == (RoutedExpert("plants", None),)


# Nothing is forgotten or changed


def test_rollback_and_undo_give_back_the_same_predictions(workspace):
    before = predict(workspace)
    registry = workspace.registry
    roll_back(registry, Aim(), "rollback")
    assert set(best(predict(Workspace(registry)))) <= OWN["warm"]
    roll_back(registry, Aim(undo=True), "rollback --undo")
    assert predict(Workspace(registry)) == before


def test_one_workspace_keeps_the_experts_of_two_sessions_apart(workspace):
    head = workspace.head()
    registry = workspace.registry
    first = registry.session(head.parent)
    with registry.lock("test"):
        restore_files(registry, first)
    weights = [
        {n: p.detach().clone() for n, p in model.trainable_parameters().items()}
        for model in (
            workspace.expert(session, session.entry("warm")) for session in (head, first, head)
        )
    ]
    assert all(bool((weights[0][name] == weights[2][name]).all()) for name in weights[0])
    assert any(bool((weights[0][name] != weights[1][name]).any()) for name in weights[0])


def test_predicting_does_not_change_the_base_model(workspace):
    from condu_cli.backbone.dual_encoder import weights_sha256

    predict(workspace, experts=2)
    assert weights_sha256(workspace.base) == load_base("tiny").info.weights_sha256


def test_the_decoupled_expert_is_base_plus_delta(workspace):
    session = workspace.head()
    entry = session.entry("plants")
    codec = codec_for(workspace.registry.config)
    state = open_state(workspace.registry, session)
    delta = dict(codec.decode(state.shared, state.parts[session.entries.index(entry)]))
    expert = workspace.expert(session, entry).trainable_parameters()
    base = workspace.base.trainable_parameters()
    assert any(values.any() for values in delta.values())
    for name, values in delta.items():
        assert np.array_equal(expert[name].detach().numpy(), base[name].detach().numpy() + values)


def test_an_expert_is_always_built_from_the_pristine_base(workspace):
    from condu_cli.backbone.dual_encoder import weights_sha256

    session = workspace.head()
    hashes = [
        weights_sha256(workspace.expert(session, session.entry(name)))
        for name in ("warm", "plants", "warm")
    ]
    assert hashes[0] == hashes[2] != hashes[1]


def test_a_device_without_float64_gets_the_same_expert_through_copies(workspace, monkeypatch):
    from condu_cli.backbone import deltas
    from condu_cli.backbone.dual_encoder import weights_sha256

    session = workspace.head()
    warm, plants = session.entry("warm"), session.entry("plants")
    wanted = weights_sha256(workspace.expert(session, warm))
    workspace.expert(session, plants)
    monkeypatch.setattr(deltas, "IN_PLACE", ())
    assert weights_sha256(workspace.expert(session, warm)) == wanted


# Errors


def test_an_empty_registry_has_nothing_to_predict_with(workspace):
    registry = workspace.registry
    registry.rollback(None, "rollback")
    with pytest.raises(NotFoundError, match="holds no tasks yet") as caught:
        workspace.head()
    assert "condu learn" in hint_of(caught.value)


@pytest.fixture
def blob(request, workspace):
    """Return the file of a blob that answering about `warm` needs."""
    head = Registry.open(workspace.registry.path).head()
    entry = head.entry("warm")
    sha256 = {"part": entry.part, "shared": head.shared, "prototypes": entry.expert.prototypes}
    return workspace.registry.blobs.path(sha256[request.param])


each_blob = pytest.mark.parametrize("blob", ["part", "shared", "prototypes"], indirect=True)


@each_blob
def test_a_missing_blob_is_an_integrity_error(workspace, blob):
    blob.unlink()
    with pytest.raises(IntegrityError, match=blob.name):
        predict(workspace)


@each_blob
def test_one_wrong_byte_is_an_integrity_error_and_no_answer(workspace, blob):
    flip(blob, -1)
    with pytest.raises(IntegrityError, match=f"{blob.name} is corrupt"):
        predict(workspace, PICTURES[:1])


@pytest.mark.parametrize("blob", ["part", "shared"], indirect=True)
def test_one_wrong_byte_is_found_where_the_task_is_named_too(workspace, blob):
    flip(blob, -1)
    with pytest.raises(IntegrityError, match=f"{blob.name} is corrupt"):
        predict(workspace, PICTURES[:1], task="warm")


def test_what_an_answer_does_not_need_may_be_damaged(workspace):
    """A corrupt blob is named when it is read, and by `condu verify`."""
    other = workspace.head().entry("plants")
    flip(workspace.registry.blobs.path(other.part), -1)
    assert best(predict(workspace, PICTURES[:1], task="warm")) == ["blue"]
    with pytest.raises(IntegrityError, match=other.part):
        predict(workspace, PICTURES[:1], task="plants")
