"""Which of the caller's labels are classes of learned tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from condu_cli.data.class_names import comparable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from condu_cli.core.routing.prototypes import Prototypes
    from condu_cli.registry.manifest import TaskEntry


@dataclass(frozen=True)
class LearnedLabels:
    """For every task that has learned some of the labels: label index to class index, both from 0.

    A label may be learned by several tasks; no task is listed without labels.
    """

    of_task: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    @property
    def indices(self) -> frozenset[int]:
        """The labels that at least one task has learned."""
        return frozenset(label for places in self.of_task.values() for label in places)

    def findable(self, prototypes: Mapping[str, Prototypes]) -> LearnedLabels:
        """Leave out classes without pictures, which a router cannot find beside others.

        `prototypes`: those of every task listed here. If no class at all has pictures, nothing is
        left out: then text alone decides between the tasks.
        """
        kept = {
            task: {label: c for label, c in places.items() if prototypes[task].counts[c]}
            for task, places in self.of_task.items()
        }
        pictured = {task: places for task, places in kept.items() if places}
        return LearnedLabels(pictured) if pictured else self


def learned_labels(entries: Sequence[TaskEntry], labels: Sequence[str]) -> LearnedLabels:
    """Look up labels among the tasks' class names; see `comparable` for what counts as equal.

    If a task has two classes of comparable names, the one spelled like the label is meant, else
    the first.
    """
    found = {entry.name: _places(entry.expert.classes, labels) for entry in entries}
    return LearnedLabels({task: places for task, places in found.items() if places})


def _places(classes: Sequence[str], labels: Sequence[str]) -> dict[int, int]:
    loosely = {comparable(name): index for index, name in reversed(list(enumerate(classes)))}
    exactly = {name: index for index, name in enumerate(classes)}
    wanted = {
        label: exactly.get(text, loosely.get(comparable(text))) for label, text in enumerate(labels)
    }
    return {label: index for label, index in wanted.items() if index is not None}
