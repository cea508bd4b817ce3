"""Routers score, rules decide: the rule of every situation, and a custom router."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from stored_pictures import stored

from condu_cli.cli.options import RouterName, RuleName
from condu_cli.core.routing.prototypes import PrototypeBuilder, unit_rows
from condu_cli.core.routing.routers import ROUTERS
from condu_cli.errors import UsageError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.answering.predictor import PredictOptions, Predictor
from condu_cli.workflows.answering.rules import RULES, among_labels, own, rule_for, vote
from condu_cli.workflows.opening.workspace import Workspace
from condu_cli.workflows.transfers.archiving import export_registry, import_registry

SITUATION = {"task": None, "labels": (), "experts": 1, "router": "pooled"}
PICTURES = stored([Image.new("RGB", (16, 16), c) for c in ((40, 60, 220), (40, 190, 60))])
OWN = {"warm": {"blue", "red"}, "plants": {"grass", "wheat"}}


class Gaussian:
    """One Gaussian per class of pooled features, with a covariance shared by all classes.

    All the code that a new router needs: it reads an extra array of the prototypes and is
    passed to `PredictOptions` directly.
    """

    def __init__(self, tasks):
        scatter = sum(task.extra["scatter"] for task in tasks)
        size = len(scatter)
        count = sum(int(task.counts.sum()) for task in tasks)
        shared = (scatter + np.trace(scatter) / size * np.eye(size)) / count
        self.precision = np.linalg.inv(shared)
        self.means = [task.pooled[task.counts > 0].astype(np.float64) for task in tasks]

    def scores(self, query):
        x = unit_rows(query.pooled)
        best = [self._log_density(x, means).max(axis=1) for means in self.means]
        return np.stack(best, axis=1)

    def _log_density(self, x, means):
        """Return scores (N, C), up to a term that is equal for all classes."""
        projected = means @ self.precision
        return x @ projected.T - 0.5 * (projected * means).sum(axis=1)


class ScatterBuilder(PrototypeBuilder):
    """Also sums the scatter of pooled features around their class mean, (P, P)."""

    def __init__(self, text_features, pooled_size):
        super().__init__(text_features, pooled_size)
        self.gram = np.zeros((pooled_size, pooled_size))

    def add(self, image_features, pooled, labels):
        super().add(image_features, pooled, labels)
        unit = unit_rows(pooled)
        self.gram += unit.T @ unit

    def build(self):
        built = super().build()
        between = (built.pooled.T * built.counts) @ built.pooled
        return replace(built, extra={"scatter": self.gram - between})


@pytest.fixture
def with_scatter(path, learn, warm, plants, monkeypatch):
    """A registry whose prototypes include the scatter of features."""
    monkeypatch.setattr("condu_cli.workflows.learning.prototyping.PrototypeBuilder", ScatterBuilder)
    learn(path, "warm", warm, iterations=2)
    learn(path, "plants", plants, iterations=2)
    return Registry.open(path)


def predict(registry, **options):
    workspace = Workspace(registry)
    return Predictor(workspace, workspace.head(), PredictOptions(**options)).predict(PICTURES)


# Routers


def test_a_new_router_needs_thirty_lines_and_decides_by_the_default_rule(with_scatter):
    predictions = predict(with_scatter, router=Gaussian)
    assert [p.experts[0].task for p in predictions] == ["warm", "plants"]
    for prediction in predictions:
        (expert,) = prediction.experts
        assert {answer.label for answer in prediction.answers} == OWN[expert.task]


def test_a_registered_router_has_a_name_like_the_others(with_scatter, monkeypatch):
    monkeypatch.setitem(ROUTERS, "gaussian", Gaussian)
    named = predict(with_scatter, router="gaussian")
    assert named == predict(with_scatter, router=Gaussian)
    for prediction in predict(with_scatter, router="gaussian", rule="vote"):
        assert {answer.label for answer in prediction.answers} == OWN["warm"] | OWN["plants"]


def test_what_a_router_needs_travels_with_the_registry(with_scatter, tmp_path):
    before = predict(with_scatter, router=Gaussian)
    export_registry(with_scatter, tmp_path / "all.condu", overwrite=False)
    import_registry(tmp_path / "all.condu", tmp_path / "copy")
    assert predict(Registry.open(tmp_path / "copy"), router=Gaussian) == before


def test_the_command_line_offers_every_router_and_every_rule():
    assert {name.value for name in RouterName} == set(ROUTERS)
    assert {name.value for name in RuleName} == set(RULES)


# Rules


@pytest.mark.parametrize(
    ("situation", "rule"),
    [
        ({}, own),
        ({"router": Gaussian}, own),
        ({"router": "gaussian"}, own),
        ({"router": "paper"}, vote),
        ({"experts": 2}, vote),
        ({"labels": ("sea", "fire")}, among_labels),
        ({"labels": ("sea", "fire"), "router": Gaussian}, among_labels),
        ({"labels": ("sea", "fire"), "router": "paper"}, vote),
        ({"labels": ("sea", "fire"), "experts": 2}, vote),
        ({"task": "warm"}, own),
        ({"task": "warm", "experts": 3}, own),
        ({"task": "warm", "router": "paper"}, own),
        ({"task": "warm", "labels": ("sea", "fire")}, vote),
        ({"task": "warm", "labels": ("red", "blue"), "task_knows_labels": True}, among_labels),
    ],
)
def test_every_situation_has_its_rule(situation, rule):
    assert rule_for(None, **{**SITUATION, **situation}) is rule


@pytest.mark.parametrize(("asked", "rule"), [("own", own), ("vote", vote)])
def test_the_rule_that_is_asked_for_decides(asked, rule):
    for router in ROUTERS:
        assert rule_for(asked, **{**SITUATION, "router": router}) is rule


@pytest.mark.parametrize("situation", [{"labels": ("sea", "fire")}, {"experts": 2}])
def test_own_classes_are_not_a_rule_for_what_needs_a_vote(situation):
    with pytest.raises(UsageError, match="the rule 'own' asks one expert"):
        rule_for("own", **{**SITUATION, **situation})


@pytest.mark.parametrize("situation", [{}, {"task": "warm", "labels": ("sea", "fire")}])
def test_the_rule_for_labels_needs_them_and_a_task_that_knows_them(situation):
    with pytest.raises(UsageError, match="the rule 'labels' chooses among your own labels"):
        rule_for("labels", **{**SITUATION, **situation})


def test_there_is_no_other_rule():
    with pytest.raises(ValueError, match="unknown rule 'chance'; known: labels, own, vote"):
        rule_for("chance", **SITUATION)
