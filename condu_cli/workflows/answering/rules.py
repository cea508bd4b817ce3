"""Rules: given the nearest experts, decide who answers and among which labels.

own     the nearest expert answers among the classes of its own task
vote    the base model and the K nearest experts vote: the mean of their logits over the caller's
        labels, else over the classes of all learned tasks
        (ConDU, arXiv 2503.10705, whose K counts the base model)
labels  for the caller's labels: the base model chooses among all of them; where its choice is a
        learned class, the nearest expert chooses instead, among those labels that are classes of
        its task. So no picture of a class that was never learned is lost to an expert, and where
        all labels are learned the base model need not be asked

The default depends on the situation:

    the task is named             own; with the caller's labels vote, unless they are all its own
    several experts               vote
    the paper's router            vote, as in the paper
    the caller's own labels       labels
    none of these                 own
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from condu_cli.errors import UsageError
from condu_cli.workflows.answering.answers import Prediction, RoutedExpert, prediction
from condu_cli.workflows.answering.panel import Panel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from condu_cli.core.routing.routers import RouterFactory
    from condu_cli.workflows.answering.answers import Candidate

Routes: TypeAlias = Sequence[tuple[RoutedExpert, ...]]
"""For every picture, the experts that may be asked, nearest first."""
Rule: TypeAlias = Callable[[Panel, Routes], list[Prediction]]
"""Decides for every picture of a panel, in order."""

USUAL_RULES = {"paper": "vote"}
"""Routers with a default rule of their own."""


def rule_for(
    asked: str | None,
    *,
    task: str | None,
    labels: Sequence[str],
    experts: int,
    router: str | RouterFactory,
    task_knows_labels: bool = False,
) -> Rule:
    """Return the requested rule, else the default for the situation.

    `task_knows_labels`: whether all labels are classes of the named task.

    Raises:
        UsageError: `own` for labels or experts that only a vote can take into account; `labels`
            without any, or with a named task that does not know them all.
        ValueError: unknown rule.

    """
    by_labels = bool(labels) and (task is None or task_knows_labels)
    name = asked or _usual(task, labels, experts, router, by_labels=by_labels)
    if name not in RULES:
        raise ValueError(f"unknown rule {name!r}; known: {', '.join(sorted(RULES))}")
    if name == "own" and (labels or (experts > 1 and task is None)):
        what = "your own labels" if labels else f"{experts} experts"
        raise UsageError(
            f"the rule 'own' asks one expert about its own classes, not {what}",
            reason="own-rule-cannot-vote",
            parameter="rule",
        )
    if name == "labels" and not by_labels:
        what = f"not all of which '{task}' has learned" if labels else "but there are none"
        raise UsageError(
            f"the rule 'labels' chooses among your own labels, {what}",
            reason="labels-rule-needs-labels",
            parameter="rule",
        )
    return RULES[name]


def _usual(
    task: str | None,
    labels: Sequence[str],
    experts: int,
    router: str | RouterFactory,
    *,
    by_labels: bool,
) -> str:
    usual = "labels" if by_labels else "own"
    if task is not None:
        return "vote" if labels and not by_labels else usual
    if experts > 1:
        return "vote"
    return USUAL_RULES.get(router, usual) if isinstance(router, str) else usual


def own(panel: Panel, routes: Routes) -> list[Prediction]:
    """Let each picture's nearest expert answer among the classes of its own task."""
    found: dict[int, Prediction] = {}
    nearest = [route[:1] for route in routes]
    for task, indices in _pictures_by_expert(dict(enumerate(nearest))).items():
        candidates = panel.own_candidates(task)
        logits = panel.expert_logits(task, candidates, indices)
        for index, row in zip(indices, logits, strict=True):
            found[index] = prediction(row, candidates, nearest[index])
        panel.report("answering", len(found), len(routes))
    return [found[index] for index in range(len(routes))]


def vote(panel: Panel, routes: Routes) -> list[Prediction]:
    """Average the logits of the base model and each picture's experts."""
    candidates = panel.all_candidates()
    votes = np.array([1 + len(route) for route in routes], dtype=np.float64)
    total = panel.base_logits(candidates).astype(np.float64)
    asked = 0
    for task, indices in _pictures_by_expert(dict(enumerate(routes))).items():
        total[indices] += panel.expert_logits(task, candidates, indices)
        asked += len(indices)
        panel.report("answering", asked, sum(len(route) for route in routes))
    mean = total / votes[:, None]
    return [prediction(row, candidates, route) for row, route in zip(mean, routes, strict=True)]


def among_labels(panel: Panel, routes: Routes) -> list[Prediction]:
    """Let the base model choose, and the nearest expert instead where it chose a learned class.

    `routes`: of a picture, only tasks of `panel.learned`, among which one is nearest; empty if no
    label is learned.
    """
    candidates, learned = panel.all_candidates(), panel.learned
    known = learned.indices  # built at every call: once for all pictures
    found: dict[int, Prediction] = {}
    for_experts = list(range(len(routes)))
    if len(known) < len(candidates):
        logits = panel.base_logits(candidates)
        found = {i: prediction(row, candidates, ()) for i, row in enumerate(logits)}
        chosen = logits.argmax(axis=1)
        for_experts = [i for i in for_experts if int(chosen[i]) in known]
    nearest = {index: routes[index][:1] for index in for_experts}
    answered = 0
    for task, indices in _pictures_by_expert(nearest).items():
        rows = _expert_logits(panel, task, indices, candidates)
        own = learned.of_task[task]
        named = tuple(replace(c, task=task) if i in own else c for i, c in enumerate(candidates))
        for index, row in zip(indices, rows, strict=True):
            found[index] = prediction(row, named, nearest[index])
        answered += len(indices)
        panel.report("answering", answered, len(for_experts))
    return [found[index] for index in range(len(routes))]


def _expert_logits(
    panel: Panel, task: str, indices: Sequence[int], candidates: Sequence[Candidate]
) -> NDArray[np.float64]:
    """Return an expert's logits (len(indices), L) over all labels, -inf for those not its own."""
    places = panel.learned.of_task[task]
    logits = panel.expert_logits(task, panel.own_candidates(task), indices)
    rows = np.full((len(indices), len(candidates)), -np.inf)
    rows[:, list(places)] = logits[:, list(places.values())]
    return rows


RULES: dict[str, Rule] = {"own": own, "vote": vote, "labels": among_labels}


def _pictures_by_expert(
    routes: Mapping[int, tuple[RoutedExpert, ...]],
) -> dict[str, list[int]]:
    """Group pictures by expert, so that each expert is decoupled only once."""
    indices: dict[str, list[int]] = defaultdict(list)
    for index, route in routes.items():
        for expert in route:
            indices[expert.task].append(index)
    return indices
