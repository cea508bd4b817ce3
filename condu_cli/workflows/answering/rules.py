"""Rules: given the nearest experts, decide who answers and among which labels.

own     the nearest expert answers among the classes of its own task
vote    the base model and the K nearest experts vote: the mean of their logits over the caller's
        labels, else over the classes of all learned tasks
        (ConDU, arXiv 2503.10705, whose K counts the base model)

The default depends on the situation:

    the caller's own labels       vote
    the task is named             own
    several experts               vote
    the paper's router            vote, as in the paper
    any other router              own
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from condu_cli.errors import UsageError
from condu_cli.workflows.answering.answers import Prediction, RoutedExpert, prediction
from condu_cli.workflows.answering.panel import Panel

if TYPE_CHECKING:
    from condu_cli.core.routing.routers import RouterFactory

Routes: TypeAlias = Sequence[tuple[RoutedExpert, ...]]
"""For every picture, the experts that may be asked, nearest first."""
Rule: TypeAlias = Callable[[Panel, Routes], list[Prediction]]
"""Decides for every picture of a panel, in order."""

USUAL_RULES = {"paper": "vote"}
"""Routers whose default rule is not `own`."""


def rule_for(
    asked: str | None,
    *,
    task: str | None,
    labels: Sequence[str],
    experts: int,
    router: str | RouterFactory,
) -> Rule:
    """Return the requested rule, else the default for the situation.

    Raises:
        UsageError: `own` for labels or experts that only a vote can take into account.
        ValueError: unknown rule.

    """
    name = asked or _usual(task, labels, experts, router)
    if name not in RULES:
        raise ValueError(f"unknown rule {name!r}; known: {', '.join(sorted(RULES))}")
    if name == "own" and (labels or (experts > 1 and task is None)):
        what = "your own labels" if labels else f"{experts} experts"
        raise UsageError(
            f"the rule 'own' asks one expert about its own classes, not {what}",
            reason="own-rule-cannot-vote",
            parameter="rule",
        )
    return RULES[name]


def _usual(
    task: str | None, labels: Sequence[str], experts: int, router: str | RouterFactory
) -> str:
    if labels:
        return "vote"
    if task is not None:
        return "own"
    if experts > 1:
        return "vote"
    return USUAL_RULES.get(router, "own") if isinstance(router, str) else "own"


def own(panel: Panel, routes: Routes) -> list[Prediction]:
    """Let each picture's nearest expert answer among the classes of its own task."""
    found: dict[int, Prediction] = {}
    nearest = [route[:1] for route in routes]
    for task, indices in _pictures_by_expert(nearest).items():
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
    for task, indices in _pictures_by_expert(routes).items():
        total[indices] += panel.expert_logits(task, candidates, indices)
        asked += len(indices)
        panel.report("answering", asked, sum(len(route) for route in routes))
    mean = total / votes[:, None]
    return [prediction(row, candidates, route) for row, route in zip(mean, routes, strict=True)]


RULES: dict[str, Rule] = {"own": own, "vote": vote}


def _pictures_by_expert(routes: Routes) -> dict[str, list[int]]:
    """Group pictures by expert, so that each expert is decoupled only once."""
    indices: dict[str, list[int]] = defaultdict(list)
    for index, route in enumerate(routes):
        for expert in route:
            indices[expert.task].append(index)
    return indices
